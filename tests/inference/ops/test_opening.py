from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.inference.ops.opening import deal_truncate, truncate
from tests.inference.pair import run_op, total

LIMIT = 1 << 62
SHIFTS = (0, 1, 7, 16, 32, 40, 62)


def truncated(values: np.ndarray, shift: int, number: int = 0) -> np.ndarray:
    def both(party: Any, share: Any) -> Generator[Any, Any, Any]:
        (found,) = yield from truncate(party, [("t", share, shift)])
        return found

    return total(run_op(lambda d: deal_truncate(d, "t", values.shape, shift), both, values, number))


@given(
    values=st.lists(
        st.integers(-LIMIT, LIMIT - 1)
        | st.integers(LIMIT - 9, LIMIT - 1)
        | st.integers(-LIMIT, -LIMIT + 9)
        | st.integers(-9, 9),
        min_size=1,
        max_size=80,
    ),
    shift=st.sampled_from(SHIFTS),
    number=st.integers(0, 1 << 30),
)
def test_truncation_is_exact_to_one_unit(values: list[int], shift: int, number: int) -> None:
    array = np.array(values, np.int64)
    error = truncated(array, shift, number) - (array >> shift)
    assert ((error == 0) | (error == 1)).all()


@pytest.mark.parametrize("shift", SHIFTS)
def test_no_truncation_of_a_million_wraps_at_the_limits(shift: int) -> None:
    draw = np.random.default_rng(shift)
    values = draw.integers(-LIMIT, LIMIT, 1_000_000)
    values[:1000] = -LIMIT + np.arange(1000)
    values[1000:2000] = LIMIT - 1 - np.arange(1000)
    error = truncated(values, shift) - (values >> shift)
    assert error.min() >= 0
    assert error.max() <= 1


def test_rounding_is_up_with_the_probability_of_the_fraction() -> None:
    values = np.full(40_000, (5 << 16) + (1 << 14))  # 5 1/4
    mean = truncated(values, 16).mean()
    assert abs(mean - 5.25) < 6 * 0.433 / 200  # six standard errors: fails once in 5e8
