"""Attempt after attempt: whom the agenda brings together, and that a calm day ends the round.

The machines are the real ones; a study's closing evaluation is the hard case, for no site ever
counts the last model anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory_round import ROUND, World, silent

from coordinator.agenda import Agenda
from coordinator.reasons import NOT_ENOUGH, RESTARTED
from coordinator.rows import AttemptRow, ModelRow
from primia.errors import PeerError, PolicyRefused
from primia.protocol.coordinator import CoordinatorRound
from primia.protocol.events import Abort, Commit, Phase, Tell, Tick
from primia.protocol.messages import Declined, RoundKind
from primia.protocol.site_events import SurvivorsSigned
from primia.types import Digest, SiteId

SITES = tuple(World(5).names)
A, B, C, D, E = SITES
QUORUM = 3
PHASES = [Phase.TRAINING, Phase.MASKED_UPDATE, Phase.SURVIVORS, Phase.UNMASKING]
ENOUGH = 12  # attempts on a calm day


def row(
    number: int,
    survivors: tuple[SiteId, ...] = (),
    *,
    kind: RoundKind = RoundKind.EVALUATE,
    code: str = NOT_ENOUGH,
) -> AttemptRow:
    """An aborted attempt at round 1, with those that were asked to sign."""
    return AttemptRow(
        round=replace(ROUND, attempt=number, kind=kind),
        opened_at=0.0,
        phase="",
        waiting_for=(),
        closed_at=1.0,
        outcome="aborted",
        reason="",
        update_norm=None,
        votes=None,
        returned_to=None,
        contributors=(),
        survivors=survivors,
        charged=(),
        absent=(),
        code=code,
    )


def agenda(
    attempts: list[AttemptRow],
    present: tuple[SiteId, ...] = SITES,
    *,
    rounds: int = 0,
    invited: tuple[SiteId, ...] = SITES,
) -> Agenda:
    return Agenda(
        rounds=rounds,
        shared_noise=False,
        attempts=attempts,
        model=ModelRow(0, Digest("c" * 64), Digest("d" * 64)),
        invited=frozenset(invited),
        present=frozenset(present),
    )


def test_those_that_were_asked_last_come_first_then_those_before_then_everybody():
    asked = [row(1, (A, B, C, D)), row(2, (A, B, C))]
    orders = []
    for number in range(3, 7):
        orders.append(agenda(asked).invitees)
        asked.append(row(number))
    assert orders == [{A, B, C}, {A, B, C, D}, set(SITES), {A, B, C}]
    assert agenda(asked).promised == {frozenset((A, B, C)), frozenset((A, B, C, D))}


def test_a_list_that_is_not_complete_waits():
    asked = [row(1, (A, B, C, D)), row(2, (A, B, C))]
    assert agenda(asked, (A, B, D, E)).invitees == set(SITES)
    assert agenda([*asked, row(3)], (A, B, C, E)).invitees == set(SITES)


def test_an_attempt_that_ended_with_the_coordinator_takes_no_turn():
    asked = [row(1, (A, B, C, D)), row(2, code=RESTARTED)]
    assert agenda(asked).invitees == {A, B, C, D}


def test_a_round_trains_anew_once_every_list_was_tried():
    asked = [row(1, (A, B, C, D), kind=RoundKind.TRAIN), row(2, (A, B, C), kind=RoundKind.TRAIN)]
    assert agenda(asked, rounds=1).kind is RoundKind.TRAIN
    asked.append(row(3, kind=RoundKind.TRAIN))
    assert agenda(asked, rounds=1).kind is RoundKind.TRAIN
    assert agenda(asked, (A, B, C), rounds=1).kind is RoundKind.RETRAIN, "no list left to try"
    asked.append(row(4, kind=RoundKind.TRAIN))
    assert agenda(asked, rounds=1).kind is RoundKind.RETRAIN
    assert not agenda(asked, rounds=1).promised, "of the retrain"


def test_an_evaluation_ends_without_a_struck_signer_once_the_others_have_failed():
    asked = [row(1, (A, B, C, D))]
    left = (A, B, C, E)
    assert not agenda(asked, left).struck_signers, "it is only away"
    assert not agenda(asked, left, invited=left).struck_signers, "perhaps nobody signed"
    asked.append(row(2))
    assert agenda(asked, left, invited=left).struck_signers == {D}
    assert not agenda([*asked, row(3, (A, B, C))], left, invited=left).struck_signers


class Study:
    """One round of five sites, tried again and again."""

    def __init__(self) -> None:
        self.attempts: list[AttemptRow] = []
        self.signed: dict[SiteId, tuple[SiteId, ...]] = {}

    def attempt(
        self, mute_from: Mapping[SiteId, Phase], deaf_from: Mapping[SiteId, Phase]
    ) -> Commit | Abort | None:
        """A mute site does as it is told and is not heard; a deaf one does nothing any more."""
        away = {s for s, phase in deaf_from.items() if phase is Phase.TRAINING}
        plan = agenda(self.attempts, tuple(s for s in SITES if s not in away))
        if len(plan.present & plan.invitees) < QUORUM:
            return None
        number = len(self.attempts) + 1
        world = World(len(SITES), quorum=QUORUM, round=replace(ROUND, attempt=number))
        invited = tuple(sorted(plan.invitees))
        world.terms = replace(world.terms, invited=invited, promised=plan.promised)
        world.coordinator = CoordinatorRound(world.terms, world.now)
        for site in SITES:
            world.members[site] = world.member(
                site, last_attempt=number - 1, signed_before=self.signed.get(site)
            )
        asked: tuple[SiteId, ...] = ()
        commands = world.coordinator.start()
        while not any(isinstance(c, Commit | Abort) for c in commands):
            queue, commands = commands, []
            asked = asked or world.coordinator.contributors
            for told in queue:
                assert isinstance(told, Tell)
                if not silent(world.coordinator.phase, deaf_from.get(told.site)):
                    commands += self._tell(world, told, mute_from.get(told.site))
            if not commands:
                world.now = max(world.now, world.coordinator.next_deadline)
                commands = world.coordinator.handle(Tick(), world.now)
        end = commands[0]
        self.attempts.append(row(number, () if isinstance(end, Commit) else asked))
        return end

    def _tell(self, world: World, told: Tell, mute_from: Phase | None) -> list:
        member = world.members[told.site]
        mute = silent(world.coordinator.phase, mute_from)
        try:
            leaving = member.instruct(told.instruction)
        except (PeerError, PolicyRefused) as err:
            leaving = [Declined(world.round, str(err))]
        for record in member.remembered:
            if isinstance(record, SurvivorsSigned):
                assert self.signed.setdefault(told.site, record.survivors) == record.survivors
        if mute:
            return []
        commands = []
        for what in leaving:
            try:
                commands += world.deliver(told.site, what)
            except PeerError:
                break  # the round went on, or is over
        return commands


faults = st.dictionaries(st.sampled_from(SITES), st.sampled_from(PHASES), max_size=4)


@settings(deadline=None, max_examples=150)
@given(storm=st.lists(st.tuples(faults, faults), max_size=6))
def test_whatever_was_signed_before_a_calm_day_ends_the_round(storm: list) -> None:
    study = Study()
    for mute, deaf in storm:
        if isinstance(study.attempt(mute, deaf), Commit):
            return
    for _ in range(ENOUGH):
        if isinstance(study.attempt({}, {}), Commit):
            return
    raise AssertionError(f"signed: {study.signed}")


def test_a_part_of_those_that_may_have_signed_is_never_asked_to():
    """Alder signed for four and was not heard. If the other three signed for themselves when it
    comes back without the fourth, no sum at all could be opened any more."""
    study = Study()
    everyone_but = {E: Phase.TRAINING}
    first = study.attempt({A: Phase.SURVIVORS, B: Phase.UNMASKING}, everyone_but | {
        C: Phase.SURVIVORS, D: Phase.SURVIVORS
    })  # fmt: skip
    assert isinstance(first, Abort)
    assert study.attempts[-1].survivors == (A, B, C, D)
    assert set(study.signed) == {A, B}
    second = study.attempt({}, everyone_but | {D: Phase.MASKED_UPDATE})
    assert isinstance(second, Abort)
    assert "may have signed" in second.reason
    assert set(study.signed) == {A, B}
    assert isinstance(study.attempt({}, everyone_but), Commit)
