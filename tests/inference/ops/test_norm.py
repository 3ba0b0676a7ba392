from __future__ import annotations

import numpy as np
import pytest

from primia.inference.ops.norm import deal_norm, norm
from primia.inference.ops.norm_numbers import NormNumbers, norm_numbers, root_fits
from tests.inference.pair import run_op, total


def weight_and_mask(real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A norm's weights in the ring, and a mask B of them."""
    mask = np.random.default_rng(3).integers(0, 1 << 64, real.size, np.uint64)
    return np.rint(real * 2.0**16).astype(np.int64).view(np.uint64), mask


def normed(
    values: np.ndarray, films: int, numbers: NormNumbers, eps: float, real: np.ndarray
) -> np.ndarray:
    """The norm of integers (all groups, count) with these weights, as real values."""
    weight, mask = weight_and_mask(real)
    groups = (films, len(values) // films)
    found = total(
        run_op(
            lambda d: deal_norm(d, "t", groups, values.shape[1], numbers, mask),
            lambda party, x: norm(
                party, "t", x, numbers, eps, weight - mask * (party.role == 0), films
            ),
            values,
        )
    )
    return found * 2.0 ** -(16 + numbers.factor_scale)


@pytest.mark.parametrize("count", [2, 49, 98, 1568, 25088])
@pytest.mark.parametrize("scale", [16, 32, 48])
@pytest.mark.parametrize("bound", [8.0, 300.0])
def test_a_norm_is_the_real_one_within_a_thousandth(count: int, scale: int, bound: float) -> None:
    draw = np.random.default_rng(count)
    groups = 7
    spread = np.geomspace(0.3, bound / 8, groups)[:, None]
    values = (draw.normal(0, 1, (groups, count)) + draw.normal(0, 1, (groups, 1))) * spread
    values = values.clip(-bound, bound)
    variance = values.var(axis=1)
    low, high = variance.min() / 4, variance.max() * 4
    numbers = norm_numbers(count, bound, low, high, scale, 16)
    channels = groups * (1 + (count % 2 == 0))
    real = np.linspace(-3, 3, channels)
    found = normed(np.rint(values * 2.0**scale).astype(np.int64), 1, numbers, 1e-5, real)
    wanted = (values - values.mean(axis=1, keepdims=True)) / np.sqrt(variance + 1e-5)[:, None]
    largest = np.abs(wanted).max()
    weighted = wanted.reshape(channels, -1) * real[:, None]
    error = np.abs(found - weighted).max(axis=1)
    assert (error < 1e-3 * largest * np.maximum(1, np.abs(real))).all()


def test_sums_of_squares_at_the_bound_stay_in_the_ring() -> None:
    """Every value at the bound but for a sign: mean near 0, mean square the largest there is."""
    count, bound = 4096, 1000.0
    values = np.where(np.arange(count) % 2, bound, -bound)[None].repeat(3, axis=0)
    numbers = norm_numbers(count, bound, 1.0, 2 * bound**2, 32, 16)
    assert numbers.parts > 1
    found = normed(np.rint(values * 2.0**32).astype(np.int64), 1, numbers, 0.0, np.ones(3))
    assert np.abs(found - values / bound).max() < 2e-3


def test_each_film_of_a_session_gets_the_weights_of_its_channels() -> None:
    """Two films, two groups, three channels each: with one weight set, one row a film is left."""
    draw = np.random.default_rng(0)
    values = np.rint(draw.normal(0, 1, (4, 30)) * 2.0**16).astype(np.int64)
    numbers = norm_numbers(30, 8.0, 0.1, 4.0, 16, 16)
    for channel in range(6):
        found = normed(values, 2, numbers, 0.0, np.eye(6)[channel]).reshape(2, 6, 10)
        spread = np.abs(found).max(axis=2)
        assert (spread[:, channel] > 0.5).all()
        assert np.delete(spread, channel, axis=1).max() < 1e-3


@pytest.mark.parametrize(("weight", "fits"), [(2.0**10, True), (2.0**30, False)])
def test_a_weight_fits_when_its_product_with_the_largest_root_does(
    weight: float, fits: bool
) -> None:
    numbers = norm_numbers(64, 8.0, 2.0**-12, 2.0**4, 16, 16)
    assert root_fits(weight, 2.0**-12, numbers, 16) == fits


def test_a_bound_too_large_for_a_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="too large for a norm"):
        norm_numbers(64, 2.0**15, 1.0, 2.0**20, 32, 16)
