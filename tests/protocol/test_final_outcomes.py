"""The coordinator's round ends once: whatever comes afterwards, its outcome stays."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from primia.errors import PeerError, PolicyRefused
from primia.protocol.coordinator import FINAL
from primia.protocol.events import Abort, Commit, Event, Phase, Progress, SiteLost, Tick
from primia.protocol.messages import Closed, Declined, Outcome
from tests.protocol.in_memory_round import NAMES, World

SITES = st.integers(0, 4)
ENDS = {Phase.DONE: Outcome.COMMITTED, Phase.ABORTED: Outcome.ABORTED}


class RoundsEndOnce(RuleBasedStateMachine):
    """Sites obey, answer late, twice or not at all, decline and are lost; time passes or jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(5)
        self.left: list[Any] = []  # (site, what it sent), to be delivered in any order, and again
        self.ends: list[Commit | Abort] = []
        self.seen: tuple[Any, ...] | None = None
        self.world.coordinator.start()

    def handle(self, event: Event) -> None:
        with contextlib.suppress(PeerError):
            commands = self.world.coordinator.handle(event, self.world.now)
            self.ends += [c for c in commands if isinstance(c, Commit | Abort)]

    @rule(number=SITES)
    def obey(self, number: int) -> None:
        site = self.world.names[number]
        instruction = self.world.coordinator.instruction_for(site)
        if instruction is not None:
            with contextlib.suppress(PeerError, PolicyRefused):
                self.left += [(site, x) for x in self.world.members[site].instruct(instruction)]

    @rule()
    def everybody_obeys_and_answers(self) -> None:
        for number, site in enumerate(self.world.names):
            before = len(self.left)
            self.obey(number)
            for _, what in self.left[before:]:
                self.handle(self.world.event(site, what))

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def an_answer_arrives_perhaps_again(self, data: st.DataObject) -> None:
        site, what = self.left[data.draw(st.integers(0, len(self.left) - 1))]
        self.handle(self.world.event(site, what))

    @rule(number=SITES, attempt=st.integers(0, 1))
    def decline(self, number: int, attempt: int) -> None:
        round_id = self.world.coordinator.terms.round
        declined = Declined(replace(round_id, attempt=round_id.attempt + attempt), "no")
        self.handle(self.world.event(self.world.names[number], declined))

    @rule(number=SITES)
    def lose(self, number: int) -> None:
        self.handle(SiteLost(self.world.names[number]))

    @rule(number=SITES)
    def progress(self, number: int) -> None:
        self.handle(Progress(self.world.names[number]))

    @rule(seconds=st.sampled_from([0.0, 1.0, 11.0, 21.0, 2000.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        self.handle(Tick())

    @invariant()
    def an_end_is_final(self) -> None:
        machine = self.world.coordinator
        assert len(self.ends) == (machine.phase in FINAL)
        if machine.phase not in FINAL:
            return
        now = (machine.phase, machine.contributors, machine.dropped)
        assert self.seen in (None, now)
        self.seen = now
        assert machine.next_deadline is None
        for name in NAMES[:5]:
            told = machine.instruction_for(next(s for s in machine.terms.invited if s == name))
            assert isinstance(told, Closed)
            assert told.outcome is ENDS[machine.phase]
        if isinstance(self.ends[0], Commit):
            assert self.ends[0].contributors == machine.contributors
            assert len(machine.contributors) >= machine.terms.quorum


RoundsEndOnce.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRoundsEndOnce = RoundsEndOnce.TestCase


def test_both_ends_are_reached_by_the_rules() -> None:
    one, other = RoundsEndOnce(), RoundsEndOnce()
    for _ in range(8):
        one.everybody_obeys_and_answers()
        one.an_end_is_final()
    assert one.world.coordinator.phase is Phase.DONE
    one.lose(0)
    one.time_passes(2000.0)
    one.everybody_obeys_and_answers()
    one.an_end_is_final()
    other.time_passes(2000.0)
    other.everybody_obeys_and_answers()
    other.an_end_is_final()
    assert other.world.coordinator.phase is Phase.ABORTED
