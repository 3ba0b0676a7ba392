from __future__ import annotations

import numpy as np
import pytest

from primia.inference.ops.answer import exp_table
from primia.inference.ops.norm_numbers import norm_numbers
from primia.inference.ops.segments import Table, deal_segments, segments, tanh_table
from tests.inference.pair import run_op, total


def through(values: np.ndarray, scale: int, table: Table) -> np.ndarray:
    fixed = np.rint(values * 2.0**scale).astype(np.int64)
    run = run_op(
        lambda d: deal_segments(d, "t", fixed.size, table),
        lambda party, x: segments(party, "t", x, table),
        fixed,
    )
    return total(run) * 2.0**-table.scale


@pytest.mark.parametrize("scale", [16, 32, 48])
def test_tanh_is_within_half_a_thousandth(scale: int) -> None:
    values = np.concatenate([np.linspace(-6, 6, 999), [-16, 16, -5, 5, 0]])
    found = through(values, scale, tanh_table(16.0, scale, 16))
    assert np.abs(found - np.tanh(values)).max() < 5e-4


def test_exp_is_within_a_thousandth_and_held_outside() -> None:
    values = np.linspace(-9, 4, 777)
    found = through(values, 16, exp_table(40.0, 16))
    assert (np.abs(found - np.exp(values)) < 1e-3 * np.exp(values) + 1e-6).all()
    ends = through(np.array([-80.0, -20, 5, 80]), 16, exp_table(40.0, 16))
    assert ends == pytest.approx([np.exp(-9)] * 2 + [np.exp(4)] * 2, rel=2e-3)


@pytest.mark.parametrize(("low", "high", "bound"), [(2**-6, 2**6, 8.0), (1e-5, 2**10, 60.0)])
def test_the_inverse_root_is_within_a_thousandth(low: float, high: float, bound: float) -> None:
    numbers = norm_numbers(64, bound, low, high, 32, 16)
    values = np.geomspace(low, min(high, bound * bound), 501)
    found = through(values, numbers.variance_scale, numbers.table)
    assert np.abs(found * np.sqrt(values) - 1).max() < 1e-3
