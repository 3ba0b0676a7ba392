import copy
import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from primia.errors import ConfigError
from primia.learning.convert import (
    add_weight_standardisation,
    batch_to_group_norm,
    group_count,
    train_only,
    validate,
)
from primia.learning.layers import WeightStandardisedConv2d
from primia.learning.vision import resnet18


@functools.cache
def _fresh_resnet():
    torch.manual_seed(0)
    return resnet18(weights=None, num_classes=2)


def resnet():
    return copy.deepcopy(_fresh_resnet())


# Refusing


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4).eval(),
        nn.SyncBatchNorm(4),
        nn.LazyBatchNorm2d(),
        nn.BatchNorm1d(4, track_running_stats=False),
        nn.InstanceNorm2d(4, track_running_stats=True),
        nn.LazyInstanceNorm1d(track_running_stats=True),
    ],
)
def test_batch_statistics_are_refused_with_the_place_and_the_reason(layer):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.ReLU(), layer))
    with pytest.raises(ConfigError, match=r"'1\.1'.*one patient.*use GroupNorm"):
        validate(model)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (torch.nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), "power iteration"),
        (torch.nn.utils.spectral_norm(nn.Linear(4, 4)), "power iteration"),
        (nn.Embedding(4, 4, max_norm=1.0), "max_norm=None"),
    ],
)
def test_layers_whose_state_changes_as_films_pass_are_refused(layer, reason):
    with pytest.raises(ConfigError, match=rf"'0.*{reason}"):
        validate(nn.Sequential(layer))


def test_a_model_that_is_itself_a_batch_norm_is_named_and_the_others_are_counted():
    with pytest.raises(ConfigError, match="'model'"):
        validate(nn.BatchNorm2d(4))
    with pytest.raises(ConfigError, match=r"'bn1'.*19 more"):
        validate(resnet())


def test_statistics_of_one_film_or_of_the_weights_are_allowed():
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    within = [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LayerNorm(4), nn.Embedding(4, 4)]
    validate(nn.Sequential(*within, normed, WeightStandardisedConv2d(1, 4, 3)))


# Batch norm to group norm


@given(channels=st.integers(1, 2048), groups=st.integers(1, 64), at_least=st.integers(1, 16))
def test_groups_divide_the_channels_and_no_group_is_narrower_than_asked(channels, groups, at_least):
    count = group_count(channels, groups, at_least=at_least)
    assert channels % count == 0
    assert groups % count == 0
    assert channels // count >= min(at_least, channels)


@pytest.mark.parametrize(
    ("channels", "count"), [(1, 1), (3, 1), (4, 2), (32, 16), (64, 32), (72, 8), (512, 32)]
)
def test_thirty_two_groups_where_they_fit_and_two_channels_a_group_at_least(channels, count):
    assert group_count(channels) == count


def _output_changes_with_the_others(model, films):
    with torch.no_grad():
        alone = model(films)[0]
        others = torch.cat([films[:1], films[1:] * 10 + 3])
        return not torch.allclose(model(others)[0], alone, atol=1e-4)


def test_a_converted_resnet_keeps_films_apart_where_the_batch_norm_mixed_them():
    model, films = resnet(), torch.randn(4, 3, 32, 32)
    assert _output_changes_with_the_others(model, films)
    changed = batch_to_group_norm(model)
    validate(model)
    assert not _output_changes_with_the_others(model, films)
    assert len(changed) == 20
    assert {"bn1", "layer2.0.downsample.1"} <= set(changed)
    assert batch_to_group_norm(model) == []


def test_conversion_keeps_the_parameters_themselves_and_drops_all_buffers():
    model = resnet()
    for p in model.parameters():
        nn.init.normal_(p)
    before = dict(model.named_parameters())
    batch_to_group_norm(model)
    after = dict(model.named_parameters())
    assert list(after) == list(before)  # the order of the flat weights, too
    assert all(after[name] is p for name, p in before.items())
    assert not list(model.buffers())


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm]
)
def test_every_kind_of_batch_norm_keeps_its_settings(layer, affine):
    old = layer(64, eps=1e-2, affine=affine, dtype=torch.float64).eval()
    if affine:
        old.weight.requires_grad_(False)
    model = nn.Sequential(old)
    assert batch_to_group_norm(model) == ["0"]
    new = model[0]
    assert type(new) is nn.GroupNorm
    assert (new.num_channels, new.eps, new.affine, new.training) == (64, 1e-2, affine, False)
    assert new.weight is old.weight
    assert new.bias is old.bias
    assert new(torch.randn(2, 64, 3, dtype=torch.float64)).dtype == torch.float64


def test_the_converted_norm_is_group_norm_with_the_old_affine_values():
    model = nn.Sequential(nn.BatchNorm2d(6))
    nn.init.normal_(model[0].weight)
    nn.init.normal_(model[0].bias)
    weight, bias, films = model[0].weight, model[0].bias, torch.randn(3, 6, 5, 5)
    batch_to_group_norm(model, groups=2)
    grouped = films.view(3, 2, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    normed = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
    expected = normed.view(3, 6, 5, 5) * weight[:, None, None] + bias[:, None, None]
    assert torch.allclose(model(films), expected, atol=1e-5)


def test_a_batch_norm_at_two_places_stays_one_layer():
    shared = nn.BatchNorm2d(4)
    model = nn.ModuleDict({"a": nn.Sequential(nn.Identity(), shared), "b": shared})
    assert batch_to_group_norm(model) == ["a.1", "b"]
    assert model["a"][1] is model["b"]


def test_a_branch_at_two_places_is_converted_at_both():
    branch = nn.Sequential(nn.BatchNorm2d(4))
    model = nn.ModuleList([branch, branch])
    assert batch_to_group_norm(model) == ["0.0", "1.0"]
    assert model[0] is model[1]
    validate(model)


def test_features_without_positions_are_not_erased():
    features = torch.randn(16, 32)
    model = nn.Sequential(nn.BatchNorm1d(32))
    batch_to_group_norm(model)
    output = model(features)
    erased = nn.GroupNorm(32, 32)(features)  # a group of one value: what must not be chosen
    assert erased.abs().max() < 1e-3 < output.abs().max()
    # All is kept but each group's mean and deviation: input and output are on one line.
    pairs = torch.stack([features.view(32, 16), output.detach().view(32, 16)], dim=1)
    assert all(torch.corrcoef(pair)[0, 1] > 0.999 for pair in pairs)
    assert model[0].num_groups == 2


def test_instance_norm_stops_tracking_and_keeps_its_affine_values():
    model = nn.Sequential(nn.InstanceNorm2d(4, affine=True, track_running_stats=True))
    weight, films = model[0].weight, torch.randn(2, 4, 5, 5)
    assert batch_to_group_norm(model) == ["0"]
    validate(model)
    assert model[0].weight is weight
    assert not list(model.buffers())
    in_training = model(films)
    assert torch.equal(model.eval()(films), in_training)


@pytest.mark.parametrize(
    ("model", "groups", "message"),
    [
        (nn.Sequential(nn.BatchNorm2d(4)), 0, "at least 1"),
        (nn.BatchNorm2d(4), 32, "put it into a Sequential"),
        (nn.Sequential(nn.BatchNorm2d(4), nn.LazyBatchNorm2d()), 32, "'1'.*one film through"),
        (nn.Sequential(nn.LazyBatchNorm1d(affine=False)), 32, "'0'.*one film through"),
    ],
)
def test_what_cannot_be_converted_is_refused_and_left_as_it_was(model, groups, message):
    before = list(model.modules())
    with pytest.raises(ConfigError, match=message):
        batch_to_group_norm(model, groups)
    assert list(model.modules()) == before


# Weight standardisation


def test_convolutions_get_standardised_weights_and_keep_their_parameters():
    model = resnet()
    before, films = dict(model.named_parameters()), torch.randn(2, 3, 32, 32)
    changed = add_weight_standardisation(model)
    assert len(changed) == 20
    assert all(after is before[name] for name, after in model.named_parameters())
    first = nn.functional.conv2d(films, model.conv1.standardised_weight(), stride=2, padding=3)
    assert torch.allclose(model.conv1(films), first)
    norms = model.layer1[0].conv1.standardised_weight().flatten(1).norm(dim=1)
    assert torch.allclose(norms, torch.ones(64), atol=1e-3)
    assert add_weight_standardisation(model) == []


def test_one_and_three_dimensions_and_a_bare_convolution_are_converted_too():
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Conv3d(2, 3, 3))
    assert add_weight_standardisation(model) == ["0", "1"]
    bare = nn.Conv2d(2, 3, 3)
    assert add_weight_standardisation(bare) == [""]
    assert isinstance(bare, WeightStandardisedConv2d)


def test_single_weights_subclasses_and_transposed_convolutions_are_left_alone():
    scale = nn.Conv2d(4, 4, 1, groups=4)
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3))
    model = nn.Sequential(scale, normed, nn.ConvTranspose2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=4))
    assert add_weight_standardisation(model) == ["3"]
    assert type(scale) is nn.Conv2d


# What is trained


def trained(model):
    return [name for name, p in model.named_parameters() if p.requires_grad]


def test_all_head_and_bias_set_requires_grad_and_return_the_names():
    model = resnet()
    everything = [name for name, _ in model.named_parameters()]
    assert train_only(model, "head") == trained(model) == ["fc.weight", "fc.bias"]
    bias = train_only(model, "bias")
    assert bias == trained(model)
    norms = [n for n in everything if "bn" in n or "downsample.1" in n]
    assert bias == [*norms, "fc.weight", "fc.bias"]
    assert train_only(model, "all") == trained(model) == everything


def test_bias_takes_the_biases_of_convolutions_but_not_their_weights_nor_other_vectors():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.PReLU(4), nn.LayerNorm([4, 2]), nn.Linear(4, 2))
    names = train_only(model, "bias")  # the affine weights of this layer norm are no vectors
    assert names == ["0.bias", "3.weight", "3.bias"]


@pytest.mark.parametrize("name", ["fc", "classifier", "head", "heads"])
def test_the_head_is_found_by_name_even_when_it_was_registered_first(name):
    model = nn.Module()
    model.add_module(name, nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    model.body = nn.Linear(4, 4)
    assert train_only(model, "head") == [f"{name}.2.weight", f"{name}.2.bias"]


def test_without_a_known_name_the_head_is_the_last_layer_with_parameters():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(4, 2), nn.Flatten())
    assert train_only(model, "head") == ["1.weight", "1.bias"]


def test_only_what_is_trained_gets_a_gradient():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    train_only(model, "head")
    model(torch.randn(5, 3)).sum().backward()
    assert model[0].weight.grad is None
    assert model[1].weight.grad is not None


def test_nothing_to_train_and_an_unknown_word_are_refused_and_change_nothing():
    model = nn.Sequential(nn.Linear(3, 4))
    model.fc = nn.Identity()
    with pytest.raises(ConfigError, match="no such parameters"):
        train_only(model, "head")
    with pytest.raises(ConfigError, match="choose one of all, head, bias"):
        train_only(model, "last")
    with pytest.raises(ConfigError, match="no such parameters"):
        train_only(nn.ReLU(), "all")
    assert trained(model) == ["0.weight", "0.bias"]
