"""Each cap of the site file really refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import datetime, time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.config.site import Caps, Compute, SiteConfig
from primia.config.strict import validate
from primia.errors import ConfigError, PolicyRefused
from primia.protocol.messages import Declined, Ready, RoundKind, Train
from primia.types import SiteId, sha256
from tests.attacks.hospitals import Consortium, Hospital, plan
from worker.approval import Person, Subject, approve
from worker.gate import ApprovalGate
from worker.limits import check_hours, in_hours, memory_told, next_start
from worker.state import WorkerState
from worker.work import check_plan

NIGHT = "19:00-06:00"
POLICY = '{"approvers": 1, "caps": {"max_epsilon": 8.0, "max_delta": 1e-4}}'


def at(clock: str) -> datetime:
    return datetime.combine(datetime(2026, 5, 4).date(), time.fromisoformat(clock))


@pytest.mark.parametrize(
    ("hours", "clock", "inside"),
    [
        (None, "12:00", True),
        (NIGHT, "19:00", True),
        (NIGHT, "23:59", True),
        (NIGHT, "00:00", True),
        (NIGHT, "05:59", True),
        (NIGHT, "06:00", False),
        (NIGHT, "18:59", False),
        ("08:30-17:00", "08:29", False),
        ("08:30-17:00", "08:30", True),
        ("08:30-17:00", "17:00", False),
    ],
)
def test_hours_hold_across_midnight_and_end_on_the_minute(
    hours: str | None, clock: str, inside: bool
) -> None:
    assert in_hours(hours, at(clock)) is inside


@given(st.times(), st.times(), st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))
def test_the_next_start_is_ahead_by_a_day_at_most_and_inside(
    start: time, end: time, now: datetime
) -> None:
    hours = f"{start:%H:%M}-{end:%H:%M}"
    if f"{start:%H:%M}" == f"{end:%H:%M}":
        return
    back = next_start(hours, now)
    assert 0 < (back - now).total_seconds() <= 86400
    assert in_hours(hours, back)


def test_outside_the_hours_a_site_says_when_it_is_back() -> None:
    with pytest.raises(PolicyRefused, match="19:00 to 06:00 only; it is back at 19:00"):
        check_hours(NIGHT, at("12:00"))
    check_hours(NIGHT, at("03:00"))


@pytest.fixture
def west(tmp_path: Path) -> tuple[Consortium, Hospital]:
    study = Consortium(tmp_path)
    return study, study.hospitals[SiteId("west")]


def gate(hospital: Hospital, clock: list[str]) -> ApprovalGate:
    """An approved gate whose clock the test sets."""
    subject = Subject(
        hospital.state.noted("plan") or "",
        sha256(b"c"),
        POLICY,
        1,
        1,  # type: ignore[arg-type]
    )
    approve(hospital.state, subject, Person("Ada", "", ""))
    return ApprovalGate(hospital.state, subject, lambda: 0, NIGHT, lambda: at(clock[0]))


def test_outside_its_hours_a_site_declines_to_train_and_does_not_attend(
    west: tuple[Consortium, Hospital],
) -> None:
    study, site = west
    clock = ["12:00"]
    site.participant._gate = gate(site, clock)
    (answer,) = site.tell(Train(study.round_id()))
    assert isinstance(answer, Declined)
    assert "it is back at 19:00" in answer.reason
    assert not site.ledger.rows()
    site.participant._round = None  # that round was closed
    assert site.participant.serve() is False
    clock[0] = "20:00"
    assert isinstance(site.tell(Train(study.round_id()))[0], Ready)


def test_training_is_broken_off_when_the_hours_end_and_nothing_is_charged(
    west: tuple[Consortium, Hospital],
) -> None:
    study, site = west
    clock = ["05:59"]
    site.participant._gate = gate(site, clock)
    contribute = site.work.learning.contribute

    def slow(round_id: Any, model: bytes, on_step: Any) -> Any:
        clock[0] = "06:01"
        return contribute(round_id, model, on_step)

    with patch.object(type(site.work.learning), "contribute", lambda _, *a: slow(*a)):
        (answer,) = site.tell(Train(study.round_id()))
    assert isinstance(answer, Declined)
    assert not site.ledger.rows()


def test_a_worker_waits_for_its_hours(tmp_path: Path) -> None:
    state = WorkerState(tmp_path)
    subject = Subject(sha256(b"p"), sha256(b"c"), POLICY, 1, 1)
    approve(state, subject, Person("Ada", "", ""))
    clock = ["12:00"]
    threading.Timer(0.3, lambda: clock.__setitem__(0, "19:00")).start()
    made = ApprovalGate(state, subject, lambda: 0, NIGHT, lambda: at(clock[0]))
    assert made.wait(threading.Event())


def test_a_plan_with_more_rounds_than_the_cap_is_refused() -> None:
    caps = Caps(max_epsilon=900.0, max_delta=1e-3, min_patients=2, max_rounds=2)
    with pytest.raises(PolicyRefused, match=r"3 rounds, above this site's cap 2.*max_rounds"):
        check_plan(plan(), caps, SiteId("west"))
    check_plan(plan(rounds=2), caps, SiteId("west"))


def test_rounds_that_are_tried_again_count_for_the_cap(west: tuple[Consortium, Hospital]) -> None:
    study, site = west
    work = replace(site.work, caps=site.caps.model_copy(update={"max_rounds": 1}), site=site.site)
    model = study.models.__getitem__
    work.prepare(study.round_id(1), model, lambda *_: None)
    work.prepare(study.round_id(1), model, lambda *_: None)  # the same update offered again
    with pytest.raises(PolicyRefused, match="max_rounds"):
        work.prepare(study.round_id(1, RoundKind.RETRAIN, model=1), model, lambda *_: None)


MEMORY = """
from worker.limits import hold_memory, memory_told
from primia.errors import PolicyRefused
import torch
from primia.learning.memory import free_bytes
hold_memory(3)
assert free_bytes(torch.device("cpu")) <= 3 << 30
kept = torch.ones(1 << 20)
try:
    with memory_told():
        torch.ones(1 << 30)
except PolicyRefused as refused:
    print(refused)
"""


def test_the_kernel_holds_the_memory_cap_and_the_round_is_declined() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=False, timeout=200
    )
    assert "caps.max_memory_gib" in done.stdout, done.stderr
    assert done.returncode == 0


def test_other_errors_are_not_taken_for_want_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shape"), memory_told():
        raise RuntimeError("shape mismatch")


def test_a_site_that_says_cpu_never_touches_a_gpu() -> None:
    from worker.devices import devices_of

    with patch("torch.cuda.device_count", return_value=4):
        assert devices_of(Compute(device="cpu", processes=2)) == ("cpu", "cpu")
        assert devices_of(Compute(device="cuda:2")) == ("cuda:2",)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hours", "19-6"),
        ("hours", "24:00-06:00"),
        ("hours", "19:00-19:00"),
        ("hours", "19:00"),
        ("max_rounds", 0),
        ("max_rounds", "5"),
        ("max_memory_gib", 0.1),
        ("max_hours", 3),
    ],
)
def test_a_cap_that_cannot_be_meant_is_refused_by_name(key: str, value: object) -> None:
    caps = {"max_epsilon": 8.0, "max_delta": 1e-4, key: value}
    data = {"data": {"kind": "npz", "path": "a.npz"}, "caps": caps}
    with pytest.raises(ConfigError, match=rf"caps.*{key}|{key}"):
        validate(SiteConfig, json.loads(json.dumps(data)), where="site.yaml")
