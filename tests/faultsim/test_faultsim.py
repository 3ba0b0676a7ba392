"""A few hundred rounds in a few dozen histories, and that a seed says all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.faultsim.history import run
from tests.faultsim.weather import Weather

HISTORIES = 48  # some 220 rounds; `make faultsim` runs 20,000


@pytest.mark.parametrize("part", range(6))
def test_no_history_breaks_the_contract(part: int) -> None:
    for number in range(part, HISTORIES, 6):
        history = run(f"suite {number}")
        assert not history.findings, (
            f"{history.findings[0]}; with every step: make faultsim SEED='{history.seed}'"
        )


def test_without_faults_every_round_is_one_attempt() -> None:
    history = run("fine day", Weather())
    assert not history.findings
    assert history.counted["attempts"] == history.counted["rounds"] > 0
    assert not history.injected


def test_a_seed_is_the_same_history_in_any_process() -> None:
    code = (
        "from tests.faultsim.run import quiet; from tests.faultsim.history import run; quiet();"
        "print(*(run(f'twice {n}').trace_hash for n in range(4)))"
    )
    seen = set()
    for hash_seed in ("0", "1", "271828"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        seen.add(done.stdout)
    assert len(seen) == 1


def test_other_seeds_are_other_histories() -> None:
    assert len({run(f"twice {n}").trace_hash for n in range(4)}) == 4
