import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.errors import ConfigError
from primia.learning.clipping import (
    CLIP_MARGIN,
    KINDS,
    Automatic,
    Flat,
    PerLayer,
    clipping_by_name,
)

SPECIAL = (0.0, 1e-45, 1e-38, 1e-20, 1.0, 1e10, 1e30, 3e38)
squares = st.one_of(
    st.sampled_from(SPECIAL),
    st.floats(0.0, 2.0**127, width=32),
    st.floats(-40, 38).map(lambda e: 10**e),
)
tables = (
    st.integers(1, 5)
    .flatmap(
        lambda groups: st.lists(
            st.lists(squares, min_size=groups, max_size=groups), min_size=1, max_size=6
        )
    )
    .map(lambda columns: torch.tensor(columns, dtype=torch.float32).T.contiguous())
)
bounds = st.floats(-3, 4).map(lambda e: 10**e)


def scaled_norms(clipping, squared):
    """Norm of each unit after scaling, over all groups, float64."""
    factors = clipping.factors(squared)
    assert factors.shape == squared.shape
    return (factors.double().square() * squared.double()).sum(0).sqrt()


@settings(deadline=None, max_examples=200)
@given(tables, bounds, st.sampled_from(KINDS))
def test_factors_times_norms_never_exceed_the_bound(squared, clip_norm, kind):
    norms = scaled_norms(clipping_by_name(kind, clip_norm), squared)
    finite = torch.isfinite(squared.sum(0))
    assert (norms[finite] <= clip_norm * (1 - CLIP_MARGIN / 2)).all()


@settings(deadline=None)
@given(tables, bounds, st.sampled_from(KINDS))
def test_factors_are_finite_and_not_negative_for_finite_norms(squared, clip_norm, kind):
    factors = clipping_by_name(kind, clip_norm).factors(squared)
    finite = torch.isfinite(squared.sum(0))
    assert torch.isfinite(factors[:, finite]).all()
    assert (factors[:, finite] >= 0).all()
    if kind != "automatic":
        assert (factors[:, finite] <= 1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_unit_without_a_finite_norm_changes_no_other_and_never_gets_a_positive_factor(kind, bad):
    clipping = clipping_by_name(kind, 1.0)
    squared = torch.tensor([[4.0, 1.0, 0.25], [9.0, 1.0, 0.25]])
    with_bad = squared.clone()
    with_bad[:, 1] = bad
    found, expected = clipping.factors(with_bad), clipping.factors(squared)
    assert torch.equal(found[:, [0, 2]], expected[:, [0, 2]])
    assert not (found[:, 1] > 0).any()


@settings(deadline=None)
@given(tables, bounds)
def test_flat_scales_all_groups_of_a_unit_alike_and_leaves_short_gradients_alone(
    squared, clip_norm
):
    factors = Flat(clip_norm).factors(squared)
    assert (factors == factors[0]).all()
    norms = squared.double().sum(0).sqrt()
    assert (factors[:, norms < clip_norm * (1 - 2 * CLIP_MARGIN)] == 1).all()
    long = (norms > clip_norm) & (norms < 1e18)
    expected = clip_norm * (1 - CLIP_MARGIN) / norms[long]
    assert torch.allclose(factors[0, long].double(), expected, rtol=1e-5, atol=0)


@settings(deadline=None)
@given(tables, bounds)
def test_per_layer_gives_every_group_its_share_whatever_the_others_do(squared, clip_norm):
    groups = squared.shape[0]
    together = PerLayer(clip_norm).factors(squared)
    share = clip_norm / math.sqrt(groups)
    for group in range(groups):
        alone = Flat(share).factors(squared[group : group + 1])
        assert torch.allclose(together[group], alone[0], rtol=1e-5, atol=0)


@settings(deadline=None)
@given(tables, bounds, st.floats(1e-3, 1.0))
def test_automatic_divides_by_the_norm_plus_the_stability(squared, clip_norm, stability):
    finite = torch.isfinite(squared.sum(0))
    factors = Automatic(clip_norm, stability).factors(squared)[:, finite].double()
    norms = squared[:, finite].double().sum(0).sqrt()
    expected = clip_norm * (1 - CLIP_MARGIN) / (norms + stability)
    assert torch.allclose(factors, expected.expand_as(factors), rtol=1e-5, atol=0)


def test_automatic_brings_long_gradients_to_nearly_the_bound_and_leaves_zero_at_zero():
    norms = scaled_norms(Automatic(2.0), torch.tensor([[1e6, 0.0]]))
    assert norms[0] == pytest.approx(2.0, rel=2e-3)
    assert norms[1] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.inf, math.nan])
def test_a_bound_that_is_no_bound_is_refused(kind, clip_norm):
    with pytest.raises(ConfigError, match="clip_norm"):
        clipping_by_name(kind, clip_norm)


@pytest.mark.parametrize("stability", [0.0, -1.0, math.nan])
def test_automatic_refuses_a_stability_that_would_divide_by_zero(stability):
    with pytest.raises(ConfigError, match="stability"):
        Automatic(1.0, stability)


def test_names_give_their_clipping_and_an_unknown_name_is_refused_with_the_choices():
    assert clipping_by_name("flat", 1.5) == Flat(1.5)
    assert clipping_by_name("per-layer", 1.5) == PerLayer(1.5)
    assert clipping_by_name("automatic", 1.5) == Automatic(1.5)
    with pytest.raises(ConfigError, match=r"adaptive.*flat, per-layer, automatic"):
        clipping_by_name("adaptive", 1.0)
