"""A study whose closing evaluation cannot be opened any more still ends, and says so."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from coordinator import home
from coordinator.rounds import RoundDriver
from coordinator.rows import Participation
from coordinator.state import CoordinatorState
from primia.protocol.messages import RoundId, RoundKind
from primia.storage.blobs import Blobs
from tests.faultsim.study import Study, first_model, study

OURS = study(4, 3, 1)
SITES = OURS.plan.site_ids


@pytest.fixture
def driver(tmp_path: Path) -> RoundDriver:
    home.initialise(tmp_path / "c", "kept")
    state = CoordinatorState(tmp_path / "c")
    blobs = Blobs(tmp_path / "c" / "blobs")
    model, *parts = first_model()
    for part in parts:
        blobs.put(part)
    state.pin_study(OURS.pinned, model)
    for site in SITES:
        enrol(state, OURS, site)
    train = state.open_attempt(OURS.pinned.digest, 1, RoundKind.TRAIN, model.digest)
    everyone = [
        Participation(s, charged=True, contributed=True, phase="", reason="") for s in SITES
    ]
    trained = model.__class__(1, model.digest[::-1], model.state)
    state.commit_attempt(train.attempt, everyone, verdict=None, model=trained, update_norm=1.0)
    aborted_evaluation(state, SITES)
    aborted_evaluation(state, ())
    return RoundDriver(OURS.terms(), state, blobs, OURS.verify)


def enrol(state: CoordinatorState, ours: Study, site: str) -> None:
    with state._db.transaction() as db:
        db.execute(
            "INSERT INTO sites (site, certificate, fingerprint, enrolled_at) "
            "VALUES (?, x'00', ?, 0)",
            (site, site),
        )


def aborted_evaluation(state: CoordinatorState, asked: tuple[str, ...]) -> RoundId:
    round_id = state.open_attempt(
        OURS.pinned.digest, 2, RoundKind.EVALUATE, state.newest_model().digest
    )
    state.set_phase(round_id.attempt, "survivors", (), ready=SITES, survivors=asked)
    state.abort_attempt(round_id.attempt, "too few sites are left", [])
    return round_id


def test_a_study_ends_once_a_signer_was_struck_and_not_while_it_is_away(
    driver: RoundDriver,
) -> None:
    driver.tick()
    assert driver.over is None
    gone = SITES[-1]
    driver._state.strike(gone)
    driver.run(threading.Event())
    assert driver.over is not None
    assert f"for {gone} signed for their sum and was struck" in driver.over
    assert driver._state.noted("over") == driver.over
    assert driver._state.newest_model().scores is None
