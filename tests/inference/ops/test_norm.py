from __future__ import annotations

import numpy as np
import pytest

from primia.inference.ops.norm import deal_norm, norm, norm_numbers
from tests.inference.pair import run_op, total


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
    found = total(
        run_op(
            lambda d: deal_norm(d, "t", (groups,), count, numbers),
            lambda party, x: norm(party, "t", x, numbers, 1e-5),
            np.rint(values * 2.0**scale).astype(np.int64),
        )
    )
    wanted = (values - values.mean(axis=1, keepdims=True)) / np.sqrt(variance + 1e-5)[:, None]
    largest = np.abs(wanted).max()
    assert np.abs(found * 2.0 ** -(16 + numbers.root_scale) - wanted).max() < 1e-3 * largest


def test_sums_of_squares_at_the_bound_stay_in_the_ring() -> None:
    """Every value at the bound but for a sign: mean near 0, mean square the largest there is."""
    count, bound = 4096, 1000.0
    values = np.where(np.arange(count) % 2, bound, -bound)[None].repeat(3, axis=0)
    numbers = norm_numbers(count, bound, 1.0, 2 * bound**2, 32, 16)
    assert numbers.parts > 1
    found = total(
        run_op(
            lambda d: deal_norm(d, "t", (3,), count, numbers),
            lambda party, x: norm(party, "t", x, numbers, 0.0),
            np.rint(values * 2.0**32).astype(np.int64),
        )
    )
    assert np.abs(found * 2.0 ** -(16 + numbers.root_scale) - values / bound).max() < 2e-3


def test_a_bound_too_large_for_a_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="too large for a norm"):
        norm_numbers(64, 2.0**15, 1.0, 2.0**20, 32, 16)
