from __future__ import annotations

import numpy as np
import pytest

from primia.inference.ops.compare import window
from primia.inference.ops.rectify import comparison
from primia.inference.ops.wide import Halves, deal_wide_relu, halves, wide_relu
from tests.inference.pair import run_op, total

CASES = [(16.0, 32), (64.0, 32), (700.0, 32), (500.0, 48), (64.0, 16), (1.0, 36)]


@pytest.mark.parametrize(("bound", "scale"), CASES)
def test_a_wide_relu_of_everything_within_the_bound(bound: float, scale: int) -> None:
    cut = halves(bound, scale)
    assert cut is not None
    draw = np.random.default_rng(2)
    largest = int(bound * 2.0**scale)
    values = draw.integers(-largest, largest + 1, 40_000)
    values[:6] = [largest, -largest, 0, 1, largest - 1, 1 - largest]
    values[6:2000] = draw.integers(-(4 << cut.low), 4 << cut.low, 1994)
    shift = scale - 16
    run = run_op(
        lambda d: deal_wide_relu(d, "t", values.size, shift, cut),
        lambda party, x: wide_relu(party, "t", x, shift, cut),
        values,
    )
    error = total(run) - (np.maximum(values, 0) >> shift)
    hidden = (values < 0) & (values >= -(1 << cut.low))  # these may pass as they are
    assert ((error[~hidden] == 0) | (error[~hidden] == 1)).all()
    assert (error[hidden] <= 1).all()
    assert (error[hidden] >= -(1 << cut.low >> shift) - 1).all()
    assert len(run.sent[0]) == len(run.sent[1]) == 2


def test_what_two_halves_cannot_hold_is_compared_in_blocks() -> None:
    assert isinstance(comparison(64.0, 32, "wan"), Halves)
    assert comparison(5000.0, 32, "wan") == window(5000.0, 32)
    assert comparison(64.0, 32, "lan") == window(64.0, 32)
