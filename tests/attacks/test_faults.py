"""Links that break, folders put back, crashes between two writes."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

import worker.link
from coordinator import daemon, home
from coordinator.state import CoordinatorState
from primia.errors import IdentityError, PolicyRefused, StateError, Unreachable
from primia.federation.optimiser import unpack_weights
from primia.privacy.ledger import Ledger
from primia.protocol.messages import Ready, RoundId, RoundKind, Train
from primia.storage.blobs import Blobs
from primia.types import Digest, SiteId
from primia.wire.handler import Attendance
from tests.attacks.hospitals import Consortium, plan
from worker.state import WorkerState
from worker.work import check_books


def test_a_link_that_broke_while_the_model_was_fetched_does_not_cost_the_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.link, "SHORTEST_PAUSE_S", 0.01)
    consortium = Consortium(tmp_path)
    west = consortium.hospitals[SiteId("west")]
    west.link.broken_fetches.append(Unreachable("the link is down"))
    west.link.script.append(Attendance(17, instruction=Train(consortium.round_id(1))))
    west.participant.serve()  # the coordinator repeats Train until the serial is acknowledged
    assert any(isinstance(a, Ready) for a in west.link.answers)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["blob", "row", "charge", "note", "answer"])
def test_a_worker_killed_at_any_step_offers_one_update_and_charges_it_once(
    tmp_path: Path, step: str, when: str
) -> None:
    class KilledError(BaseException):
        pass

    consortium = Consortium(tmp_path)
    west = consortium.hospitals[SiteId("west")]
    owner, name = {
        "blob": (west.work.blobs, "put"),
        "row": (west.state, "add_update"),
        "charge": (west.ledger, "charge"),
        "note": (west.state, "note"),
        "answer": (west.link, "answer"),
    }[step]
    real = getattr(owner, name)

    def dies(*args: object, **named: object) -> None:
        if when == "after":
            real(*args, **named)
        raise KilledError

    setattr(owner, name, dies)
    first = consortium.round_id(1)
    with pytest.raises(KilledError):
        west.tell(Train(first))
    setattr(owner, name, real)
    west.state.close()
    west.ledger.close()

    west.start()
    check_books(west.ledger, west.state)
    assert any(isinstance(a, Ready) for a in west.tell(Train(consortium.round_id(1))))
    stored = west.state.update_for(first)
    assert stored is not None
    assert [row.update for row in west.ledger.rows()] == [stored.digest]


def test_promises_put_back_to_an_older_copy_are_found_by_the_ledger(tmp_path: Path) -> None:
    # worker.db holds who was signed for and the last attempt; without them both promises are void.
    consortium = Consortium(tmp_path)
    west = consortium.hospitals[SiteId("west")]
    west.state.close()
    shutil.copy(west.folder / "worker.db", tmp_path / "old.db")
    west.ledger.close()
    west.start()
    for number in (1, 2, 3):
        west.tell(Train(consortium.round_id(number)))
    west.state.close()
    for leftover in west.folder.glob("worker.db*"):
        leftover.unlink()
    shutil.copy(tmp_path / "old.db", west.folder / "worker.db")
    state = WorkerState(west.folder)
    with pytest.raises(StateError):
        check_books(west.ledger, state)


def test_a_site_is_not_told_to_take_a_fresh_budget_for_the_same_patients(tmp_path: Path) -> None:
    state = WorkerState(tmp_path)
    state.pin_plan(Digest("a" * 64))
    state.add_update(
        RoundId(Digest("a" * 64), 1, 1, RoundKind.TRAIN, Digest("c" * 64)), Digest("d" * 64)
    )
    with pytest.raises(PolicyRefused) as refused:
        state.pin_plan(Digest("b" * 64))
    assert "new state folder" not in str(refused.value)


def test_the_ledger_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        Ledger(tmp_path / "ledger.db", create=True).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "ledger.db").stat().st_mode) & 0o077 == 0


def test_a_crash_while_a_plan_is_pinned_leaves_no_model_of_that_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Killed between model 0 and the plan's row; then the lead corrects the plan and starts again.
    home.initialise(tmp_path / "c", "attacked")
    state, blobs = CoordinatorState(tmp_path / "c"), Blobs(tmp_path / "c" / "blobs")

    class KilledError(BaseException):
        pass

    def dies(_self: CoordinatorState, _study: object, _model: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(CoordinatorState, "pin_study", dies)
        with pytest.raises(KilledError):
            daemon._pin(tmp_path / "c", state, blobs, plan())
    other = plan(model={"name": "small-cnn", "input_size": 28, "classes": ["no", "maybe", "yes"]})
    daemon._pin(tmp_path / "c", state, blobs, other)
    pinned = state.study()
    assert pinned is not None
    unpack_weights(blobs.get(state.models()[0].digest), pinned.parameters)


def test_a_struck_site_cannot_return_with_a_code_given_out_before_it_was_struck(
    tmp_path: Path,
) -> None:
    home.initialise(tmp_path / "c", "attacked")
    state = CoordinatorState(tmp_path / "c")

    def issue(_site: SiteId) -> tuple[bytes, str]:
        return b"certificate", "fingerprint"

    west = SiteId("west")
    for code in ("first", "second"):  # struck once, invited again, then it is to stay out
        state.add_invitation(fingerprint=code, site=west, pem=b"", expires=1e12)
        if code == "first":
            state.redeem("first", "key", issue)
            state.strike(west)
    try:
        state.strike(west)
    except StateError:
        pytest.fail("cannot be struck again, though a code for it is out")
    with pytest.raises(IdentityError):
        state.redeem("second", "other key", issue)
