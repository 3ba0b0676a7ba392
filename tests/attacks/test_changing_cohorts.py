"""Films that change between the making of an update and its leaving: who pays, and is it used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from primia.errors import PolicyRefused
from primia.privacy import Ledger, Members
from primia.protocol.messages import AdvertiseKeys, Declined, Ready, RoundKind, Train
from primia.protocol.site_events import SurvivorsSigned
from primia.types import SiteId, sha256
from primia.wire.handler import Attendance
from tests.attacks.hospitals import NAMES, Consortium, Hospital
from worker.approval import NotApproved
from worker.participant import Participant
from worker.work import LocalWork

GONE, STAYS = bytes(16), bytes([1] * 16)
FIRST = Members("k", {GONE: frozenset(), STAYS: frozenset()})
LATER = Members("k", {STAYS: frozenset()})
ALL = tuple(SiteId(name) for name in NAMES)


class Killed(BaseException):
    """As SIGKILL: nothing is caught."""


@pytest.fixture
def study(tmp_path: Path) -> Consortium:
    return Consortium(tmp_path)


@pytest.fixture
def west(study: Consortium) -> Hospital:
    return study.hospitals[SiteId("west")]


def trained_on(hospital: Hospital, members: Members) -> LocalWork:
    """The hospital's work after people approved this cohort, and a restart."""
    hospital.start()
    hospital.work = replace(
        hospital.work, members=members, cohort=sha256(members.digest.encode()), site=hospital.site
    )
    hospital.participant._work = hospital.work
    return hospital.work


def prepare(work: LocalWork, study: Consortium, **which: Any) -> Any:
    return work.prepare(study.round_id(**which), study.models.__getitem__, lambda *_: None)


def killed_before_its_charge(
    work: LocalWork, study: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "charge", die)
        with pytest.raises(Killed):
            prepare(work, study)


def test_a_patient_who_left_after_a_crash_is_not_in_an_update_that_others_pay_for(
    study: Consortium, west: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_before_its_charge(trained_on(west, FIRST), study, monkeypatch)
    made_of_both = west.state.update_for(study.round_id())
    work = trained_on(west, LATER)
    _, update = prepare(work, study)
    assert made_of_both is not None
    assert update.digest != made_of_both.digest
    (row,) = west.ledger.rows()
    assert (row.update, row.cohort) == (update.digest, LATER.digest)


def test_an_update_that_was_charged_is_not_offered_once_its_films_were_changed(
    study: Consortium, west: Hospital
) -> None:
    _, before = prepare(trained_on(west, FIRST), study)
    _, after = prepare(trained_on(west, LATER), study)
    assert after.digest != before.digest
    assert [row.cohort for row in west.ledger.rows()] == [FIRST.digest, LATER.digest]
    _, again = prepare(trained_on(west, LATER), study)
    assert again.digest == after.digest
    assert len(west.ledger.rows()) == 2


def test_a_signed_round_whose_films_changed_counts_its_model_no_second_time(
    study: Consortium, west: Hospital
) -> None:
    round_id = study.round_id()
    work = trained_on(west, FIRST)
    _, update = work.prepare(round_id, study.models.__getitem__, lambda *_: None)
    west.state.remember(SurvivorsSigned(round_id, b"s", ALL), update)
    with pytest.raises(PolicyRefused, match="counts this model"):
        prepare(trained_on(west, LATER), study)
    _, again = prepare(trained_on(west, LATER), study, kind=RoundKind.RETRAIN)
    assert again.digest != update.digest


def test_a_signed_evaluation_is_finished_though_films_changed(
    study: Consortium, west: Hospital
) -> None:
    round_id = study.round_id(number=4, kind=RoundKind.EVALUATE)
    work = trained_on(west, FIRST)
    _, update = work.prepare(round_id, study.models.__getitem__, lambda *_: None)
    west.state.remember(SurvivorsSigned(round_id, b"s", ALL), update)
    _, again = prepare(trained_on(west, LATER), study, number=4, kind=RoundKind.EVALUATE)
    assert again.digest == update.digest


def test_a_round_is_not_gone_on_with_after_a_restart_when_films_changed(
    study: Consortium, west: Hospital
) -> None:
    trained_on(west, FIRST)
    round_id = study.round_id()
    assert isinstance(west.tell(Train(round_id))[0], Ready)
    assert not isinstance(west.tell(AdvertiseKeys(round_id, ALL))[0], Declined)
    trained_on(west, LATER)
    (answer,) = west.tell(AdvertiseKeys(round_id, ALL))
    assert isinstance(answer, Declined)
    assert not west.link.uploads
    assert [row.cohort for row in west.ledger.rows()] == [FIRST.digest]


def test_an_update_with_the_bytes_of_the_round_before_keeps_its_file(
    study: Consortium, west: Hospital
) -> None:
    class Still:
        """Learns nothing, without noise: every round says the same."""

        def contribute(self, *_: Any) -> Any:
            return made

    work = trained_on(west, FIRST)
    made = work.learning.contribute(
        study.round_id(), study.models[study.digests[0]], lambda *_: None
    )
    work = replace(work, learning=Still())
    prepare(work, study, kind=RoundKind.RETRAIN)
    vector, update = prepare(work, study, number=2, model=1, kind=RoundKind.RETRAIN)
    assert update.digest in work.blobs
    assert (vector == made).all()


class Closing:
    """A gate that people close after training."""

    in_hours = True
    is_open = True

    def check(self) -> None:
        if not self.is_open:
            raise NotApproved("refused by Ada")

    def check_hours(self) -> None:
        pass


def test_a_site_whose_people_refuse_in_mid_round_tells_the_others(
    study: Consortium, west: Hospital
) -> None:
    gate = Closing()
    participant: Participant = west.participant
    participant._gate = gate
    west.link.script.append(Attendance(1, instruction=Train(study.round_id())))
    send = west.link.answer

    def refused_after(answer: Any) -> None:
        send(answer)
        gate.is_open = False

    west.link.answer = refused_after  # type: ignore[method-assign]
    assert participant.serve() is False
    assert [type(a) for a in west.link.answers] == [Ready, Declined]
    assert "Ada" not in west.link.answers[-1].reason
