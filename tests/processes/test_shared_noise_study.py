"""A study whose sites add the noise together, as real processes, from films to report."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.federation import Federation, committed, plan

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

THREE = ["north", "south", "east"]
ROUNDS = 3


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path, THREE)
    try:
        yield made
    finally:
        made.stop()


def test_three_sites_share_the_noise_vote_and_finish(federation: Federation) -> None:
    base = plan(THREE)
    federation.found(
        base
        | {
            "rounds": ROUNDS,
            "training": base["training"] | {"local_steps": 1},
            "privacy": {"noise": "distributed", "delta": 1e-3, "target_epsilon": 8.0},
            "aggregation": {"wire_bits": 24},
            "server": {"momentum": 0.9},
            # No AUC falls so far: every vote is yes, and no round is spent on a return.
            "evaluation": {"vote_tolerance": 0.99},
        }
    )
    for name in THREE:
        federation.start_worker(name)
    federation.wait_for_end()

    result = federation.result()
    assert committed(result) == [1, 2, 3, 4]  # three of training, one closing evaluation
    assert [a["votes"] for a in result["attempts"]] == [3] * (ROUNDS + 1)
    for name in THREE:
        with sqlite3.connect(federation.folder / name / "ledger.db") as ledger:
            charges = list(ledger.execute("SELECT round, kind, steps FROM ledger ORDER BY number"))
        assert charges == [(n, "distributed", 1) for n in range(1, ROUNDS + 1)]
    report = (federation.folder / "result" / "report.html").read_text()
    assert "all sites together, each a share" in report
    assert "against the coordinator together with up to 1 of the sites" in report
