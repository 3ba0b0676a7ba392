"""Builds broken on purpose: each must be caught within a few histories, or the simulation is blind.

What is broken is patched here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from coordinator.agenda import Agenda
from coordinator.state import CoordinatorState
from primia.privacy import Ledger
from primia.protocol.messages import RoundKind
from primia.protocol.site import SiteRound
from primia.protocol.site_events import SurvivorsSigned, Upload
from primia.storage.blobs import Blobs
from primia.types import Digest, sha256
from tests.faultsim.disk import SimDisk
from tests.faultsim.history import History, run
from tests.faultsim.weather import Weather
from worker.participant import Participant
from worker.state import WorkerState
from worker.work import LocalWork

Patch = pytest.MonkeyPatch
MOST = 80  # histories until it must have been caught


def storm() -> Weather:
    """Much of what kills, as a history draws it now and then."""
    return Weather(
        drop=0.02,
        duplicate=0.05,
        straggle=0.02,
        longest_delay_s=30.0,
        latency_s=1.0,
        crash_at_message=0.004,
        crash_at_disk=0.004,
        power_loss=0.7,
        kill_every_s=250.0,
        partition_every_s=250.0,
        slow_training=0.05,
        coordinator_crash=4.0,
    )


def weak_disks() -> Weather:
    """Processes die at their disks alone, so that rounds are committed meanwhile: in the storm
    nearly all of them wait for its end."""
    return Weather(
        duplicate=0.05,
        longest_delay_s=30.0,
        latency_s=1.0,
        crash_at_disk=0.002,
        power_loss=0.7,
        coordinator_crash=4.0,
    )


def mortal_sites() -> Weather:
    """Sites die as often as the coordinator, and rounds are committed meanwhile."""
    return replace(
        storm(), crash_at_disk=0.002, kill_every_s=0.0, partition_every_s=0.0, coordinator_crash=1.0
    )


def caught(name: str, weather: Callable[[], Weather]) -> History | None:
    """The first history that shows something."""
    for number in range(MOST):
        history = run(f"broken {name} {number}", weather())
        if history.findings:
            return history
    return None


# --- the builds ------------------------------------------------------------------------------


def a_blob_is_not_synced_before_its_row(patch: Patch) -> None:
    def put(self: Blobs, data: bytes) -> Digest:
        digest = sha256(data)
        disk = self._disk
        assert isinstance(disk, SimDisk)
        file = disk._new_file(self.path(digest), data)
        assert file.sure == 0
        return digest

    patch.setattr(Blobs, "put", put)


def an_update_is_charged_after_it_was_sent(patch: Patch) -> None:
    charge, carry_out = LocalWork._charge, Participant._carry_out
    owed: dict[LocalWork, Callable[[], None]] = {}

    def later(self: LocalWork, *arguments: Any) -> None:
        owed[self] = partial(charge, self, *arguments)

    def and_charge(self: Participant, machine: SiteRound, commands: list[Any]) -> None:
        for command in commands:
            carry_out(self, machine, [command])
            if isinstance(command, Upload):
                owed.pop(self._work)()

    patch.setattr(LocalWork, "__hash__", lambda self: id(self), raising=False)
    patch.setattr(LocalWork, "_charge", later)
    patch.setattr(Participant, "_carry_out", and_charge)


def an_update_is_sent_again_with_fresh_noise(patch: Patch) -> None:
    patch.setattr(LocalWork, "reusable", lambda *_: None)


def a_round_is_committed_in_two_transactions(patch: Patch) -> None:
    close = CoordinatorState._close

    def in_two(self: CoordinatorState, *arguments: Any, **named: Any) -> None:
        *record, model = arguments
        close(self, *record, None, **named)
        if model is not None:
            with self._db.transaction() as db:
                self._insert_model(db, model)

    patch.setattr(CoordinatorState, "_close", in_two)


def a_site_forgets_whom_it_signed_for(patch: Patch) -> None:
    remember = WorkerState.remember

    def forgetful(self: WorkerState, record: Any, update: Any) -> None:
        remember(self, record, None if isinstance(record, SurvivorsSigned) else update)

    patch.setattr(WorkerState, "remember", forgetful)
    # An honest coordinator would bring the signers together again.
    patch.setattr(Agenda, "kind", property(lambda self: kind_without_promises(self)))
    patch.setattr(Agenda, "promised", frozenset())


def kind_without_promises(agenda: Agenda) -> RoundKind:
    return RoundKind.EVALUATE if agenda.number > agenda.rounds else RoundKind.TRAIN


def the_ledger_is_not_synced(patch: Patch) -> None:
    prepare = Ledger._prepare

    def carelessly(self: Ledger, create: bool) -> None:
        prepare(self, create)
        self._db.execute("PRAGMA synchronous = OFF")

    patch.setattr(Ledger, "_prepare", carelessly)


def the_coordinators_state_is_not_synced(patch: Patch) -> None:
    init = CoordinatorState.__init__

    def carelessly(self: CoordinatorState, *arguments: Any, **named: Any) -> None:
        init(self, *arguments, **named)
        self._db._link.execute("PRAGMA synchronous = NORMAL")

    patch.setattr(CoordinatorState, "__init__", carelessly)


def a_sum_is_recorded_for_all_that_were_invited(patch: Patch) -> None:
    commit = CoordinatorState.commit_attempt

    def generous(self: CoordinatorState, attempt: int, sites: Any, **named: Any) -> None:
        commit(self, attempt, [replace(s, contributed=True) for s in sites], **named)

    patch.setattr(CoordinatorState, "commit_attempt", generous)


# What each is caught by: a line of the contract, or l for a study that does not finish.
BUILDS = {
    a_blob_is_not_synced_before_its_row: "7l",
    an_update_is_charged_after_it_was_sent: "3",
    an_update_is_sent_again_with_fresh_noise: "4",
    a_round_is_committed_in_two_transactions: "167",
    a_site_forgets_whom_it_signed_for: "8",
    the_ledger_is_not_synced: "37",
    the_coordinators_state_is_not_synced: "1",
    a_sum_is_recorded_for_all_that_were_invited: "26",
}
WEATHERS = {
    a_round_is_committed_in_two_transactions: weak_disks,
    a_site_forgets_whom_it_signed_for: mortal_sites,
}


@pytest.mark.parametrize("build", BUILDS, ids=lambda b: b.__name__)
def test_a_broken_build_is_caught(build: Callable[[Patch], None], monkeypatch: Patch) -> None:
    build(monkeypatch)
    history = caught(build.__name__, WEATHERS.get(build, storm))
    assert history is not None, f"{MOST} histories and nothing seen"
    print(history.seed, history.findings)
    assert history.findings[0][0] in BUILDS[build]


@pytest.mark.parametrize("weather", [storm, weak_disks, mortal_sites])
def test_the_same_weather_breaks_nothing_in_the_build_as_it_is(
    weather: Callable[[], Weather],
) -> None:
    for number in range(7):
        history = run(f"sound {number}", weather())
        assert not history.findings, (history.seed, history.findings)
