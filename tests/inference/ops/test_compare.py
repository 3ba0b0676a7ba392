from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.inference.ops.compare import deal_relu, log2_ceil, relu, window
from tests.inference.pair import run_op, total

CASES = [(16.0, 32), (1000.0, 32), (2.0**12, 48), (8.0, 16), (1e5, 32), (2.0**28, 32), (0.01, 32)]


@pytest.mark.parametrize(("bound", "scale"), CASES)
def test_relu_of_everything_within_the_bound(bound: float, scale: int) -> None:
    draw = np.random.default_rng(1)
    largest = int(bound * 2.0**scale)
    values = draw.integers(-largest, largest + 1, 5000)
    values[:6] = [largest, -largest, 0, 1, largest - 1, 1 - largest]
    near = window(bound, scale)
    # small values of either sign, down to what the window leaves out
    values[6:2000] = draw.integers(-(4 << near.low), 4 << near.low, 1994)
    shift = scale - 16
    found = total(
        run_op(
            lambda d: deal_relu(d, "t", values.shape, shift, near),
            lambda party, x: relu(party, "t", x, shift, near),
            values,
        )
    )
    error = found - (np.maximum(values, 0) >> shift)
    hidden = (values < 0) & (values >= -(1 << near.low))  # these may pass as they are
    assert ((error[~hidden] == 0) | (error[~hidden] == 1)).all()
    assert (error[hidden] <= 1).all()
    assert (error[hidden] >= -(1 << near.low >> shift) - 1).all()


@given(bound=st.floats(1e-3, 2**28), scale=st.sampled_from([16, 32]))
def test_a_window_holds_its_bound_and_decides_finely(bound: float, scale: int) -> None:
    near = window(bound, scale)
    assert bound * 2.0**scale < 2.0 ** (near.low + 4 * near.blocks)
    assert near.low + near.bits <= 63
    assert near.low == 0 or 2.0 ** (near.low - scale) <= max(2.0**-12, bound * 2.0**-46)


def test_values_too_large_for_the_ring_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        window(2.0**30, 32)


@pytest.mark.parametrize(("value", "wanted"), [(1, 0), (1.01, 1), (2, 1), (0.25, -2), (0.3, -1)])
def test_the_logarithm_rounds_up_exactly(value: float, wanted: int) -> None:
    assert log2_ceil(value) == wanted
