"""A coordinator that has a site go on with an attempt from an earlier point than it had reached.

Kept on disk are the seed of the keys and the instructions that were taken. Were the record of the
instructions lost while the seed is kept, the same keys would mask among other sites, and the
difference of two uploads would be the mask of one pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hospitals import NAMES, Consortium, Hospital, plan

from primia.protocol.coordinator import CoordinatorRound
from primia.protocol.events import (
    Abort,
    Answered,
    Command,
    Commit,
    Event,
    Phase,
    RoundTerms,
    Tick,
    UpdateArrived,
)
from primia.protocol.messages import (
    AdvertiseKeys,
    Closed,
    Declined,
    Instruction,
    Outcome,
    Ready,
    Reveal,
    RoundId,
    SendMasked,
    ShareSecrets,
    Train,
)
from primia.secagg.packing import pack
from primia.types import SiteId, sha256
from primia.wire.handler import Attendance
from worker import state as worker_state

SITES = tuple(SiteId(n) for n in NAMES)
WEST = SiteId("west")
SHARED: dict[str, Any] = {
    "privacy": {"noise_multiplier": 2.0, "delta": 1e-3, "noise": "distributed"},
    "training": {
        "patient_sampling_rate": 0.5, "local_steps": 1, "expected_patients": 5,
        "learning_rate": 1.0,
    },
}  # fmt: skip


class Attempt:
    """The coordinator's side of one attempt, stopped wherever the attack needs it."""

    def __init__(self, consortium: Consortium, round_id: RoundId, sites: tuple[SiteId, ...]):
        first = consortium.hospitals[SITES[0]]
        self.hospitals = consortium.hospitals
        self.machine = CoordinatorRound(
            RoundTerms(
                round=round_id, invited=sites, quorum=3, deadline_s=10.0, grace_s=1.0,
                stage_timeout_s=1.0, layout=first.work.contribution.layout,
                verify=first.participant._peers.verify,
            ),
            0.0,
        )  # fmt: skip
        self.machine.start()
        self.end: Command | None = None

    def drive(self, until: Phase) -> Attempt:
        """Ask everybody who is waited for, up to a phase or the end."""
        now = 0.0
        over = (until, Phase.DONE, Phase.ABORTED)
        while self.machine.phase not in over:
            phase = self.machine.phase
            for site in self.machine.waiting_for:
                instruction = self.asked(site)
                for what in self.hospitals[site].tell(instruction):
                    event: Event = Answered(site, what)
                    if isinstance(what, np.ndarray):
                        packed = pack(what, self.machine.terms.layout)
                        event = UpdateArrived(site, packed, sha256(packed))
                    self._take(self.machine.handle(event, now))
                if self.machine.phase is not phase:
                    break
            if self.machine.phase is phase:  # nobody else will answer
                now += 2.0
                self._take(self.machine.handle(Tick(), now))
        return self

    def asked(self, site: SiteId) -> Instruction:
        instruction = self.machine.instruction_for(site)
        assert instruction is not None
        return instruction

    def _take(self, commands: list[Command]) -> None:
        self.end = next((c for c in commands if isinstance(c, Commit | Abort)), self.end)


def _shares(attempt: Attempt, round_id: RoundId) -> ShareSecrets:
    """The instruction of the stage before, which the site has taken."""
    return ShareSecrets(round_id, tuple(attempt.machine._adverts[s] for s in SITES))


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    return Consortium(tmp_path)


# --- the record of an attempt is not begun anew with its old keys ---------------------------------


def _closed_under_another_model(west: Hospital, round_id: RoundId, other: RoundId) -> None:
    west.tell(Closed(replace(round_id, model=other.model), Outcome.ABORTED, ""))


def _asked_too_early(west: Hospital, round_id: RoundId, _: RoundId) -> None:
    west.tell(Reveal(round_id, bytes(32), {}, {}))


def _kept_for_a_day(west: Hospital, round_id: RoundId, _: RoundId) -> None:
    with west.state._db.transaction() as db:
        db.execute("UPDATE journal SET made_at = made_at - 90000")


def _restart(west: Hospital, _: RoundId) -> None:
    west.start()


def _next_attempt(west: Hospital, later: RoundId) -> None:
    west.tell(Train(later))


@pytest.mark.parametrize(
    "lose",
    [_closed_under_another_model, _asked_too_early, _kept_for_a_day],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("back", [_restart, _next_attempt], ids=lambda f: f.__name__)
def test_a_site_uploads_one_masked_vector_in_an_attempt_whatever_becomes_of_its_record(
    consortium: Consortium, lose: Callable[..., None], back: Callable[..., None]
) -> None:
    round_id = consortium.round_id()
    attempt = Attempt(consortium, round_id, SITES).drive(Phase.MASKED_UPDATE)
    west = consortium.hospitals[WEST]
    keys, shares = AdvertiseKeys(round_id, SITES), _shares(attempt, round_id)
    asked = attempt.asked(WEST)
    assert isinstance(asked, SendMasked)
    lists = [tuple(s for s in SITES if s != left_out) for left_out in SITES if left_out != WEST]
    for among in [*lists, SITES]:
        sealed = {s: c for s, c in asked.sealed.items() if s in among}
        west.tell(replace(asked, among=among, sealed=sealed))
        lose(west, round_id, consortium.round_id(model=1))
        west.tell(keys)
        back(west, consortium.round_id())
        west.tell(keys)
        west.tell(shares)
    uploads = {data for _, data in west.link.uploads}
    assert len(uploads) == 1, f"{len(uploads)} uploads under one key pair: pair masks are known"


def test_a_record_of_an_attempt_does_not_grow_with_the_times_it_is_asked(
    consortium: Consortium,
) -> None:
    round_id = consortium.round_id()
    attempt = Attempt(consortium, round_id, SITES).drive(Phase.MASKED_UPDATE)
    west = consortium.hospitals[WEST]
    again = [AdvertiseKeys(round_id, SITES), _shares(attempt, round_id), attempt.asked(WEST)]
    for instruction in again * 5:
        west.tell(instruction)
    journal = west.state.journal.of(round_id)
    assert journal is not None
    assert [type(i) for i in journal.instructions] == [AdvertiseKeys, ShareSecrets, SendMasked]


@pytest.mark.parametrize("phase", [Phase.SHARES, Phase.MASKED_UPDATE, Phase.SURVIVORS])
def test_an_attempt_that_was_left_for_the_next_is_not_gone_back_to(
    consortium: Consortium, phase: Phase
) -> None:
    round_id = consortium.round_id()
    attempt = Attempt(consortium, round_id, SITES).drive(phase)
    west = consortium.hospitals[WEST]
    west.tell(Train(consortium.round_id()))
    answers = west.tell(attempt.asked(WEST))
    assert not [a for a in answers if not isinstance(a, Ready | Declined)]


def test_with_shared_noise_no_model_is_counted_in_two_sums_by_going_back_to_an_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All four mask for an attempt, are asked to train for the next, and are then asked to open the
    # first: the second sum, with counts of the same model and without west, gives west's own.
    made = plan(**SHARED)
    monkeypatch.setattr("hospitals.plan", lambda: made)
    consortium = Consortium(tmp_path)
    first = Attempt(consortium, consortium.round_id(), SITES).drive(Phase.SURVIVORS)
    later = consortium.round_id()
    for each in consortium.hospitals.values():
        each.tell(Train(later))
    first.drive(Phase.DONE)
    second = Attempt(consortium, later, SITES[:3]).drive(Phase.DONE)
    assert not (isinstance(first.end, Commit) and isinstance(second.end, Commit))


def test_no_record_of_an_attempt_is_left_when_the_study_is_over(consortium: Consortium) -> None:
    """Though the site never heard how the attempt ended."""
    Attempt(consortium, consortium.round_id(), SITES).drive(Phase.UNMASKING)
    west = consortium.hospitals[WEST]
    with west.state._db.transaction() as db:
        (seed,) = db.execute("SELECT seed FROM journal").fetchone()
    assert any(seed in f.read_bytes() for f in west.folder.glob("worker.db*"))
    west.link.script = [Attendance(7, study_over="all rounds are committed")]
    assert west.participant.serve()
    assert not any(seed in f.read_bytes() for f in west.folder.glob("worker.db*"))


def test_the_copy_made_before_a_migration_holds_no_secret_of_the_round_at_hand(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer primia is installed in the middle of a round; nobody deletes the copy."""
    Attempt(consortium, consortium.round_id(), SITES).drive(Phase.SURVIVORS)
    west = consortium.hospitals[WEST]
    with west.state._db.transaction() as db:
        (seed,) = db.execute("SELECT seed FROM journal").fetchone()
    west.state.close()
    newer = [*worker_state._MIGRATIONS, "CREATE TABLE newer (one INTEGER) STRICT"]
    monkeypatch.setattr(worker_state, "_MIGRATIONS", newer)
    west.start()
    (copy,) = (f for f in west.folder.iterdir() if f.name.startswith("worker.db.schema-"))
    beside = [f for f in west.folder.iterdir() if f.name.startswith(copy.name)]
    assert not any(seed in f.read_bytes() for f in beside)
    with west.state._db.transaction() as db:
        assert db.execute("SELECT seed FROM journal").fetchone()[0] == seed  # it goes on
