from __future__ import annotations

import numpy as np
import pytest

from benchmarks.inference.truncations import LIMIT, failures, values_of
from primia.inference.ops.opening import Opened

SEEDS = (b"0" * 32, b"1" * 32, b"2" * 32)


def test_the_loop_counts_no_failure_of_what_is_exact() -> None:
    values = values_of(np.random.default_rng(0), 9000)
    assert {LIMIT - 1, -LIMIT} <= set(values)
    assert failures(values, 16, SEEDS) == 0


def test_the_loop_sees_a_truncation_that_forgets_the_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Opened, "wraps", np.zeros(9000, np.uint64))
    assert failures(values_of(np.random.default_rng(0), 9000), 16, SEEDS) > 1000
