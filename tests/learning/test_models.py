import numpy as np
import pytest
import torch
from torch import nn

from primia.errors import ConfigError, PeerError
from primia.learning.models import (
    NAMES,
    build,
    flatten,
    initial_weights,
    load_flat,
    parameter_count,
    refuse_batch_statistics,
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
    a, b, c = (initial_weights("small-cnn", **SHAPE, seed=s) for s in (1, 1, 2))
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
    "layer",
    [
        nn.BatchNorm2d(4),
        nn.SyncBatchNorm(4),
        nn.LazyBatchNorm2d(),
        nn.BatchNorm1d(4, track_running_stats=False),
        nn.InstanceNorm2d(4, track_running_stats=True),
    ],
)
def test_batch_statistics_are_refused_with_the_place_and_the_reason(layer):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.ReLU(), layer))
    with pytest.raises(ConfigError, match=r"'1\.1'.*one patient.*use GroupNorm"):
        refuse_batch_statistics(model)


def test_group_and_instance_statistics_are_allowed():
    refuse_batch_statistics(nn.Sequential(nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)))


def test_an_unknown_name_and_a_tiny_input_are_refused():
    with pytest.raises(ConfigError, match="choose one of small-cnn"):
        build("vgg11", **SHAPE)
    with pytest.raises(ConfigError, match="at least 28 px"):
        build("small-cnn", input_size=27, channels=1, classes=2)
