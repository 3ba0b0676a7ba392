"""The worker looks at what people decided, while it runs and before every round."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from primia.protocol.messages import Declined, Ready, Train
from primia.types import SiteId, sha256
from primia.wire.handler import Attendance
from tests.attacks.hospitals import Consortium, Hospital
from worker.approval import Person, Subject, approve, refuse
from worker.gate import ApprovalGate
from worker.state import WorkerState

BY = Person("Ada", "", "ada")
POLICY = '{"approvers": 1, "caps": {"max_epsilon": 8.0, "max_delta": 1e-4}}'


def subject(plan: bytes = b"plan", cohort: bytes = b"cohort") -> Subject:
    return Subject(sha256(plan), sha256(cohort), POLICY, 10, 5)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[WorkerState]:
    made = WorkerState(tmp_path)
    yield made
    made.close()


def in_another_terminal(folder: Path, what: Subject) -> threading.Thread:
    def decide() -> None:
        other = WorkerState(folder)
        approve(other, what, BY)
        other.close()

    thread = threading.Timer(0.3, decide)
    thread.start()
    return thread


def test_an_approval_in_another_terminal_lets_a_waiting_worker_go_on(
    state: WorkerState, tmp_path: Path
) -> None:
    thread = in_another_terminal(tmp_path, subject())
    assert ApprovalGate(state, subject(), lambda: 0).wait(threading.Event())
    thread.join()


def test_an_approval_of_films_that_were_added_since_has_them_read_again(
    state: WorkerState, tmp_path: Path
) -> None:
    thread = in_another_terminal(tmp_path, subject(cohort=b"one film more"))
    assert not ApprovalGate(state, subject(), lambda: 0).wait(threading.Event())
    thread.join()


def test_a_worker_that_waits_can_be_stopped(state: WorkerState) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    assert not ApprovalGate(state, subject(), lambda: 0).wait(stop)


@pytest.fixture
def hospital(tmp_path: Path) -> tuple[Consortium, Hospital]:
    study = Consortium(tmp_path)
    return study, study.hospitals[SiteId("west")]


def gated(hospital: Hospital) -> Subject:
    """Give the hospital a real gate, closed, in the place of the open one."""
    made = Subject(
        hospital.state.noted("plan") or "",
        sha256(b"cohort"),
        POLICY,
        10,
        5,  # type: ignore[arg-type]
    )
    hospital.participant._gate = ApprovalGate(hospital.state, made, lambda: 0)
    return made


def test_nothing_is_trained_and_nothing_leaves_before_the_approval(
    hospital: tuple[Consortium, Hospital],
) -> None:
    study, west = hospital
    made = gated(west)
    (answer,) = west.tell(Train(study.round_id()))
    assert isinstance(answer, Declined)
    assert "120" not in answer.reason
    assert "digest" not in answer.reason
    assert not west.ledger.rows()
    assert not west.link.uploads
    approve(west.state, made, BY)
    assert isinstance(west.tell(Train(study.round_id()))[0], Ready)


def test_a_refusal_in_mid_study_holds_before_the_next_rounds_training(
    hospital: tuple[Consortium, Hospital],
) -> None:
    study, west = hospital
    approve(west.state, gated(west), BY)
    assert isinstance(west.tell(Train(study.round_id(1)))[0], Ready)
    refuse(west.state, BY, "")
    assert isinstance(west.tell(Train(study.round_id(2, model=1)))[0], Declined)
    assert [row.round for row in west.ledger.rows()] == [1]


def test_a_worker_whose_approval_is_gone_stops_attending(
    hospital: tuple[Consortium, Hospital],
) -> None:
    study, west = hospital
    approve(west.state, gated(west), BY)
    west.link.script.append(Attendance(1, instruction=Train(study.round_id(1))))
    asked = 0
    attend = west.link.attend

    def refusing(after: int) -> Attendance:
        nonlocal asked
        asked += 1
        refuse(west.state, BY, "")
        return attend(after)

    west.link.attend = refusing  # type: ignore[method-assign]
    assert west.participant.serve() is False
    assert asked == 1
    assert isinstance(west.link.answers[-1], Declined)
