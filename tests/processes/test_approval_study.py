"""Approvals with real workers: nothing before, at once after, and no more once taken back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from primia.demo.fleet import call
from tests.processes.federation import Federation, committed, plan

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

FOUR = ["north", "south", "east", "west"]


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path, FOUR)
    try:
        yield made
    finally:
        made.stop()


def test_a_worker_waits_for_its_people_and_goes_on_without_a_restart(
    federation: Federation,
) -> None:
    schedule = plan(FOUR)["schedule"] | {"grace_s": 3}
    federation.found(plan(FOUR, rounds=3, schedule=schedule), approved=False)
    west = federation.start_worker("west")
    waiting = federation.wait_for(west, "waiting_for_approval")
    assert "primia-worker plan show" in waiting["why"]
    assert federation.ledger("west") == []
    federation.approve("west")
    federation.wait_for(west, "approved", by=["test"])

    for name in FOUR[:3]:
        federation.approve(name)
        federation.start_worker(name)
    federation.wait_for(west, "charged", round=1)
    call(
        "worker", "plan", "refuse", "--reason", "second thoughts",
        "--state", str(federation.folder / "west"),
    )  # fmt: skip
    federation.wait_for(west, "waiting_for_approval")
    federation.wait_for_end()

    assert [r for r, _ in federation.ledger("west")] == [1]
    result = federation.result()
    assert committed(result) == [1, 2, 3, 4]
    assert "west" not in next(a for a in result["attempts"] if a["number"] == 3)["contributors"]
