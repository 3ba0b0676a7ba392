"""`kill -9` at the worst moments: the study finishes and each round commits once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.federation import Federation, committed, plan

pytestmark = [pytest.mark.processes, pytest.mark.timeout(400)]

FOUR = ["north", "south", "east", "west"]


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path, FOUR)
    try:
        yield made
    finally:
        made.stop()


def test_one_worker_killed_in_training_and_another_between_keys_and_upload(
    federation: Federation,
) -> None:
    schedule = {"deadline_s": 400, "quorum": 3, "grace_s": 20, "stage_timeout_s": 20}
    federation.found(plan(FOUR, schedule=schedule))
    for name in ("north", "south", "east"):
        federation.start_worker(name)
    west = federation.start_worker("west", "tests.processes.dies_at_upload")

    north = federation.daemons["north"]
    federation.wait_for(north, "working", round=1)
    north.process.kill()
    federation.wait_for(federation.daemons["coordinator"], "round_committed", round=1)
    # However long north takes to start, round 2 is not ready without it.
    south = federation.daemons["south"].process
    south.send_signal(signal.SIGSTOP)
    north = federation.start_worker("north")
    federation.wait_for(north, "working", round=2, timeout_s=200)
    south.send_signal(signal.SIGCONT)
    federation.wait_until(lambda: west.process.poll() is not None)
    federation.wait_for_end()

    result = federation.result()
    assert committed(result) == [1, 2, 3]  # two of training, one closing evaluation
    first, second = (
        next(a for a in result["attempts"] if a["number"] == n and a["outcome"] == "committed")
        for n in (1, 2)
    )
    assert first["contributors"] == ["east", "south", "west"]
    assert [(x["site"], x["phase"]) for x in first["absent"]] == [("north", "training")]
    assert second["contributors"] == ["east", "north", "south"]
    assert [(x["site"], x["phase"]) for x in second["absent"]] == [("west", "masked update")]
    report = (federation.folder / "result" / "report.html").read_text()
    assert "no answer in time" in report
    # Killed in training: not charged. Killed after: charged, though its update never left.
    assert [r for r, _ in federation.ledger("north")] == [2]
    assert [r for r, _ in federation.ledger("west")] == [1, 2]


def test_the_coordinator_killed_mid_round_resumes_and_no_worker_is_restarted(
    federation: Federation,
) -> None:
    federation.found(plan(FOUR))
    for name in FOUR:
        federation.start_worker(name)
    coordinator = federation.daemons["coordinator"]
    federation.wait_for(coordinator, "phase", round=1, phase="keys")
    coordinator.process.kill()
    coordinator.process.wait()
    federation.start_coordinator()
    again = federation.daemons["coordinator"]
    federation.wait_for(again, "phase", round=2, phase="training")
    again.process.kill()
    again.process.wait()
    federation.start_coordinator()
    federation.wait_for_end()

    for name in FOUR:  # the first processes, still there, heard the end by themselves
        process = federation.daemons[name].process
        federation.wait_until(lambda process=process: process.poll() is not None, 60)
        assert process.returncode == 0
    result = federation.result()
    assert committed(result) == [1, 2, 3]
    aborted = [a for a in result["attempts"] if a["outcome"] == "aborted"]
    assert aborted
    assert all("restarted" in a["reason"] for a in aborted)
    # A round is charged once at each site, whatever was resent; no second noised update exists.
    for name in FOUR:
        assert [r for r, _ in federation.ledger(name)] == [1, 2]
