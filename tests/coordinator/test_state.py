"""The coordinator's record: what is closed stays as it is, and a long study costs no more."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from coordinator import home
from coordinator.rows import ModelRow, Participation, PinnedStudy
from coordinator.state import CoordinatorState
from primia.errors import StateError
from primia.protocol.messages import RoundKind
from primia.types import Digest, SiteId

PLAN, SITE = Digest("a" * 64), SiteId("north")


def model(number: int) -> ModelRow:
    return ModelRow(number, Digest(f"{number:064x}"), Digest("e" * 64))


@pytest.fixture
def state(tmp_path: Path) -> CoordinatorState:
    home.initialise(tmp_path / "c", "kept")
    made = CoordinatorState(tmp_path / "c")
    made.pin_study(PinnedStudy(b"plan", b"", PLAN, 8), model(0))
    return made


def commit(state: CoordinatorState, number: int) -> int:
    round_id = state.open_attempt(PLAN, number, RoundKind.TRAIN, model(number - 1).digest)
    state.commit_attempt(
        round_id.attempt,
        [Participation(SITE, charged=True, contributed=True, phase="", reason="")],
        verdict=None,
        model=model(number),
        update_norm=1.0,
    )
    return round_id.attempt


def test_an_outcome_in_the_database_is_final(state: CoordinatorState) -> None:
    committed = commit(state, 1)
    aborted = state.open_attempt(PLAN, 2, RoundKind.TRAIN, model(1).digest).attempt
    state.abort_attempt(aborted, "too few sites", [])
    before = state.attempts()
    for attempt in (committed, aborted):
        with pytest.raises(StateError, match="final"):
            state.abort_attempt(attempt, "again", [])
        with pytest.raises(StateError, match="final"):
            state.commit_attempt(attempt, [], verdict=None, model=model(7), update_norm=None)
    assert state.attempts() == before == CoordinatorState(state.folder).attempts()
    assert state.newest_model().number == 1


def test_what_was_read_before_is_not_read_again_and_is_what_a_new_reader_finds(
    state: CoordinatorState,
) -> None:
    for number in range(1, 6):
        open_ = state.open_attempt(PLAN, number, RoundKind.TRAIN, model(number - 1).digest)
        assert state.attempts()[-1].outcome == "open"
        state.set_phase(open_.attempt, "keys", [SITE], ready=[SITE], survivors=[])
        assert state.attempts()[-1].phase == "keys"
        state.abort_attempt(open_.attempt, "too few", [])
        commit(state, number)
        assert state.attempts() == CoordinatorState(state.folder).attempts()
    assert len(state.attempts()) == 10


def test_models_are_known_by_their_digest(state: CoordinatorState) -> None:
    commit(state, 1)
    assert state.newest_model() == state.models()[-1]
    assert state.has_model(model(0).digest)
    assert state.has_model(model(1).digest)
    assert not state.has_model(model(2).digest)
    assert not state.has_model(model(1).digest, rejected=True), "nobody has voted on it"


def test_letting_a_site_in_again_is_on_the_audit_log(state: CoordinatorState) -> None:
    with pytest.raises(StateError, match="not on the roster"):
        state.readmit(SITE)
    state.add_invitation(fingerprint="f", site=SITE, pem=b"", expires=1e12)
    state.redeem("f", "key", lambda site: (b"certificate", site))
    attempt = commit(state, 1)
    state.readmit(SITE)
    assert state.readmitted() == {SITE: attempt}
    line = state.audit.last("site_readmitted")
    assert line is not None
    assert line.fields == {"site": SITE, "attempt": attempt}


def test_an_older_record_gets_the_codes_of_its_reasons(
    state: CoordinatorState, tmp_path: Path
) -> None:
    """A file of schema 6, whose reasons are told apart by their text alone."""
    attempt = state.open_attempt(PLAN, 1, RoundKind.TRAIN, model(0).digest).attempt
    reasons = {
        "a": "no answer in time",
        "b": "away: nothing was heard of its worker in this round",
        "c": "declined: no",
        "d": "revealed a wrong share",
    }
    sites = [Participation(SiteId(s), False, False, "keys", why) for s, why in reasons.items()]
    state.abort_attempt(attempt, "the coordinator was restarted", sites)
    state.close()
    file = tmp_path / "c" / "coordinator.db"
    with sqlite3.connect(file) as db:
        db.executescript(
            "ALTER TABLE attempts DROP COLUMN code; ALTER TABLE participation DROP COLUMN code;"
            "DROP INDEX models_by_digest; DROP TABLE troubles; PRAGMA user_version = 6;"
        )
    db.close()
    (found,) = CoordinatorState(tmp_path / "c").attempts()
    assert found.code == "coordinator-restarted"
    assert [a.code for a in found.absent] == ["late", "away", "declined", "wrong-share"]
