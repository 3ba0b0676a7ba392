"""Daemons killed, stopped, started twice (rows F01 to F11 of the fault table)."""

from __future__ import annotations

import re
import shutil
import signal
import time

import pytest

from primia.demo.fleet import Daemon
from tests.faults.ward import FOUR, Ward
from tests.processes.federation import committed

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]


def test_f01_a_worker_killed_in_training_rejoins_by_itself_and_counts_once(ward: Ward) -> None:
    ward.start_coordinator()
    ward.start_all()
    ward.wait_for(ward.daemons["north"], "working", round=1)
    ward.kill("north")
    ward.start_worker("north")
    ward.wait_for_end()
    assert committed(ward.result()) == [1, 2, 3]
    assert [r for r, _ in ward.ledger("north")][-1] == 2  # it came back
    ward.check(sums=2)


def test_f03_the_coordinator_killed_mid_round_resumes_and_workers_reconnect(ward: Ward) -> None:
    ward.start_coordinator()
    ward.start_all()
    ward.wait_for(ward.coordinator, "phase", round=1, phase="shares")
    ward.kill("coordinator")
    ward.start_coordinator()
    ward.wait_for_end()
    for name in FOUR:  # the first processes
        assert ward.wait_for_exit(name) == 0
    assert committed(ward.result()) == [1, 2, 3]
    for name in FOUR:
        assert [r for r, _ in ward.ledger(name)] == [1, 2]
    ward.check(sums=2)


def test_f06_a_worker_that_slept_past_the_deadline_is_refused_and_joins_the_next(
    ward: Ward,
) -> None:
    ward.start_coordinator()
    ward.start_all()
    ward.wait_for(ward.daemons["east"], "charged", round=1)
    ward.send("east", signal.SIGSTOP)
    ward.wait_for(ward.coordinator, "round_committed", round=1)
    ward.send("east", signal.SIGCONT)
    ward.wait_for_end()
    first, second = (
        next(a for a in ward.attempts() if a["number"] == n and a["outcome"] == "committed")
        for n in (1, 2)
    )
    assert "east" not in first["contributors"]
    assert "east" in second["contributors"]
    assert [r for r, _ in ward.ledger("east")] == [1, 2]  # its charge of round 1 stays
    reason = next(a["reason"] for a in first["absent"] if a["site"] == "east")
    assert reason.startswith("no answer")
    ward.check(sums=2)


def test_f07_a_coordinator_that_stands_still_for_a_minute_is_waited_for(ward: Ward) -> None:
    ward.start_coordinator()
    ward.start_all()
    ward.wait_for(ward.coordinator, "phase", round=1, phase="training")
    ward.send("coordinator", signal.SIGSTOP)
    before = {name: ward.said(name).count("\n") for name in FOUR}
    time.sleep(60)
    grown = {name: ward.said(name).count("\n") - before[name] for name in FOUR}
    ward.send("coordinator", signal.SIGCONT)
    assert all(lines < 60 for lines in grown.values()), grown
    ward.wait_for_end()
    for name in FOUR:
        assert ward.wait_for_exit(name) == 0
    assert committed(ward.result()) == [1, 2, 3]
    ward.check(sums=2)


def test_f08_every_daemon_ends_on_sigterm_and_resumes(ward: Ward) -> None:
    ward.start_coordinator()
    ward.start_all()
    ward.wait_for(ward.daemons["west"], "working", round=1)
    ward.terminate("west")
    ward.wait_for(ward.daemons["south"], "working", round=1)
    ward.terminate("coordinator")
    ward.terminate("south")
    ward.start_coordinator()
    ward.start_worker("south")
    ward.start_worker("west")
    ward.wait_for_end()
    assert committed(ward.result()) == [1, 2, 3]
    for name in FOUR:
        assert ward.wait_for_exit(name) == 0
    ward.check(sums=2)


def test_f09_a_second_worker_on_the_same_folder_is_refused_with_the_holders_pid(
    ward: Ward,
) -> None:
    first = ward.start_worker("north")
    ward.wait_for(first, "coordinator_unreachable")
    second = ward.start_worker("north")
    assert second.process.wait(60) == 1
    line = second.last_lines(1)
    assert f"in use by process {first.process.pid}" in line
    assert "stop that one" in line
    assert first.process.poll() is None
    first.process.terminate()
    assert first.process.wait(15) == 0


def test_f11_a_second_coordinator_on_the_same_folder_or_port_is_refused(ward: Ward) -> None:
    first = ward.start_coordinator()
    again = _coordinator(ward, ward.home, ward.port)
    assert again.process.wait(60) == 1
    assert f"{ward.home} is in use by process {first.process.pid}" in again.last_lines(1)

    other = ward.folder / "other"
    shutil.copytree(ward.home, other)
    beside = _coordinator(ward, other, ward.port)
    assert beside.process.wait(60) == 1
    assert f"cannot listen at 127.0.0.1:{ward.port}: the port is in use" in beside.last_lines(1)
    assert first.process.poll() is None
    ward.terminate("coordinator")


def _coordinator(ward: Ward, home, port: int) -> Daemon:
    return Daemon.start(
        "second", ward.folder / "second.log", "coordinator", "start",
        "--state", str(home), "--listen", f"127.0.0.1:{port}",
    )  # fmt: skip


def test_n07_workers_started_before_the_coordinator_wait_and_say_what_for(ward: Ward) -> None:
    ward.start_all()
    time.sleep(25)
    for name in FOUR:
        said = ward.said(name)
        lines = re.findall(r".*coordinator_unreachable.*", said)
        assert 2 <= len(lines) < 25
        assert f"nothing listens at 127.0.0.1:{ward.port}" in lines[-1]
        assert "next_try_s" in lines[-1]
    ward.start_coordinator()
    ward.wait_for_end()
    assert committed(ward.result()) == [1, 2, 3]
    ward.check(sums=2)
