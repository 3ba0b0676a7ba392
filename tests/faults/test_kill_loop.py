"""The kill loop in short; `make kill-loop` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kill_loop import besiege

pytestmark = [pytest.mark.faults, pytest.mark.timeout(500)]


def test_a_study_of_three_rounds_survives_eight_kills(tmp_path: Path) -> None:
    loop = besiege(tmp_path, sites=4, rounds=3, kills=8, seed=20, say=print)
    assert len(loop.done) == 8
