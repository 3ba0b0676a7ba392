import numpy as np
import pytest
import torch

from primia.errors import ConfigError, PeerError
from primia.learning.layers import ScaleNormBlock, WeightStandardisedConv2d
from primia.learning.models import (
    NAMES,
    build,
    flatten,
    load_flat,
    parameter_count,
)

SHAPE = {"input_size": 28, "channels": 1, "classes": 2}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("size", "channels"), [(28, 1), (33, 3), (48, 1), (64, 3)])
def test_every_network_takes_any_size_and_one_or_three_channels(name, size, channels):
    model = build(name, input_size=size, channels=channels, classes=3)
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 3)


def test_the_small_network_is_small():
    assert 10_000 < parameter_count(build("small-cnn", **SHAPE)) < 20_000


@pytest.mark.parametrize("name", NAMES)
def test_the_output_for_one_film_does_not_depend_on_the_others(name):
    model = build(name, **SHAPE)
    films = torch.randn(4, 1, 28, 28)
    alone = model(films[:1])
    films[1:] *= 100
    assert torch.allclose(model(films)[:1], alone, atol=1e-4)


def test_initial_weights_follow_the_seed_and_leave_torchs_generator_alone():
    before = torch.random.get_rng_state()
    a, b, c = (flatten(build("small-cnn", **SHAPE, seed=s)) for s in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", NAMES)
def test_weights_survive_the_way_into_a_vector_and_back(name):
    model, other = build(name, **SHAPE, seed=1), build(name, **SHAPE, seed=2)
    load_flat(other, flatten(model))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_flat_vector_is_a_copy():
    model = build("small-cnn", **SHAPE)
    vector = flatten(model)
    load_flat(model, vector)
    vector[:] = 7
    assert not np.array_equal(flatten(model), vector)


def _with(vector, index, value):
    changed = vector.copy()
    changed[index] = value
    return changed


@pytest.mark.parametrize(
    "spoil",
    [
        lambda v: v[:-1],
        lambda v: np.append(v, np.float32(0)),
        lambda v: v[None],
        lambda v: v.astype(np.float64),
        lambda v: _with(v, 5, np.nan),
        lambda v: _with(v, -1, np.inf),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(spoil):
    model = build("small-cnn", **SHAPE)
    vector = flatten(model)
    with pytest.raises(PeerError, match="weights"):
        load_flat(model, spoil(vector))
    assert np.array_equal(flatten(model), vector)


@pytest.mark.parametrize(
    ("name", "total", "norm"),
    [("small-cnn", 12.148941, 13.614636), ("resnet18-gn", 4723.765876, 111.698208)],
)
def test_the_initial_weights_of_seed_0_are_those_of_earlier_releases(name, total, norm):
    # A study is known by the digest of these, too. The tolerance is for other torch versions'
    # rounding, not for other draws: the totals of two seeds differ by far more.
    weights = flatten(build(name, **SHAPE, seed=0)).astype(np.float64)
    assert weights.sum() == pytest.approx(total, abs=1e-3)
    assert np.linalg.norm(weights) == pytest.approx(norm, abs=1e-4)
    other = flatten(build(name, **SHAPE, seed=1)).astype(np.float64)
    assert abs(other.sum() - total) > 1e-1


def test_scale_norm_adds_a_norm_to_every_block_and_leaves_the_other_weights():
    plain = build("resnet18-gn", **SHAPE)
    scaled = build("resnet18-gn", **SHAPE, scale_norm=True)
    assert sum(isinstance(m, ScaleNormBlock) for m in scaled.modules()) == 8
    after = dict(scaled.named_parameters())
    assert all(torch.equal(after[name], p) for name, p in plain.named_parameters())
    extra = 2 * 2 * (64 + 128 + 256 + 512)  # weight and bias, two blocks a stage
    assert parameter_count(scaled) == parameter_count(plain) + extra
    films = torch.randn(2, 1, 28, 28)
    assert not torch.allclose(scaled(films), plain(films))
    load_flat(scaled, flatten(build("resnet18-gn", **SHAPE, seed=0, scale_norm=True)))


@pytest.mark.parametrize(("name", "count"), [("small-cnn", 3), ("resnet18-gn", 20)])
def test_weight_standardisation_reaches_every_convolution_and_changes_no_weight(name, count):
    model = build(name, **SHAPE, weight_standardisation=True)
    assert sum(isinstance(m, WeightStandardisedConv2d) for m in model.modules()) == count
    assert np.array_equal(flatten(model), flatten(build(name, **SHAPE, seed=0)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("trainable", ["head", "bias"])
def test_frozen_weights_are_in_the_flat_vector_too(name, trainable):
    model = build(name, **SHAPE, trainable=trainable)
    active = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 0 < active < parameter_count(model)
    load_flat(model, 2 * flatten(model))
    assert np.array_equal(flatten(model), 2 * flatten(build(name, **SHAPE, seed=0)))


def test_all_options_together_keep_films_apart():
    options = {"scale_norm": True, "weight_standardisation": True, "trainable": "bias"}
    model = build("resnet18-gn", **SHAPE, **options)
    films = torch.randn(3, 1, 28, 28)
    alone = model(films[:1])
    films[1:] *= 100
    assert torch.allclose(model(films)[:1], alone, atol=1e-4)


def test_options_a_network_cannot_honour_are_refused():
    with pytest.raises(ConfigError, match="small-cnn has no residual sums"):
        build("small-cnn", **SHAPE, scale_norm=True)
    with pytest.raises(ConfigError, match="choose one of all"):
        build("small-cnn", **SHAPE, trainable="nothing")


def test_an_unknown_name_and_a_tiny_input_are_refused():
    with pytest.raises(ConfigError, match="choose one of small-cnn"):
        build("vgg11", **SHAPE)
    with pytest.raises(ConfigError, match="at least 28 px"):
        build("small-cnn", input_size=27, channels=1, classes=2)
