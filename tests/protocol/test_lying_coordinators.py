"""A lying coordinator against groups, and every kind of instruction replayed.

The single instructions that a site refuses are in `test_protocol_attacks`, the graph of large
studies in `test_ring_attacks`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from in_memory_round import ROUND, World, another_attempt
from thief import Thief, without

from primia.errors import PeerError, PolicyRefused
from primia.protocol import messages
from primia.protocol.events import Phase
from primia.protocol.messages import (
    AdvertiseKeys,
    Closed,
    Instruction,
    Reveal,
    SendMasked,
    ShareSecrets,
    SignSurvivors,
    Train,
)
from primia.protocol.session import survivor_statement
from primia.protocol.site import SitePhase
from primia.types import SiteId

# --- groups ---


def group_world(**changes: object) -> World:
    return World(15, groups=3, **changes)


@pytest.mark.parametrize("phase", [Phase.MASKED_UPDATE, Phase.SURVIVORS])
def test_a_list_that_leaves_two_sites_in_any_group_is_refused(phase):
    """Though twelve of fifteen sites are more than the cohort's two thirds."""
    world = group_world()
    world.run(until=phase)
    victim = world.names[0]
    instruction = world.coordinator.instruction_for(victim)
    graph = world.members[victim].machine._topology
    for group in graph.groups:
        machine_world = group_world()
        machine_world.run(until=phase)
        gone = set([s for s in group if s != victim][:3])
        if victim in group:
            assert len(set(group) - gone) == 2
        lie: Instruction
        if isinstance(instruction, SendMasked):
            lie = without(instruction, gone)
        else:
            lie = replace(
                instruction, survivors=tuple(s for s in instruction.survivors if s not in gone)
            )
        member = machine_world.members[victim]
        with pytest.raises(PolicyRefused, match="2 sites of a group"):
            member.instruct(lie)
        assert member.machine._secrets is None


def test_no_message_tells_a_site_its_group_or_a_threshold():
    """Both follow from the session, the plan and the site's own rules."""
    for kind in get_args(Instruction):
        names = {f.name for f in dataclasses.fields(kind)}
        assert not names & {"group", "groups", "threshold", "quorum", "floor", "degree", "cipher"}


def test_a_vector_that_is_counted_in_another_group_or_in_two_stays_masked():
    world = group_world()
    world.run(until=Phase.UNMASKING)
    thief = Thief(world)
    one, other, _ = thief.graph.groups
    assert thief.opens(one)
    assert np.array_equal(thief.sum_of(one), world.plain_sum(one))
    for wrong in ((*other, one[0]), one[1:], one[:1]):
        assert not thief.opens(wrong)
        # A uniform word equals the true one once in 2^24: none of 37, but once in 450,000 runs.
        assert not np.any(thief.sum_of(wrong) == world.plain_sum(wrong))


def test_two_friends_in_a_group_of_five_do_not_see_a_third_site_alone():
    """Two of fifteen collude, far fewer than a third; two honest sites are called lost."""
    world = group_world()
    world.run(until=Phase.MASKED_UPDATE)
    group = world.coordinator._topology.groups[0]
    victim, *friends = group[:3]
    world = group_world()
    world.run(silent_from=dict.fromkeys(group[3:], Phase.MASKED_UPDATE), until=Phase.UNMASKING)
    if world.coordinator.phase is Phase.ABORTED:
        return
    thief = Thief(world, friends)
    stolen = thief.opens([victim])
    if stolen:
        assert np.array_equal(thief.sum_of([victim]), world.plain_sum([victim]))
    assert not stolen


# --- replays of every kind of instruction ---

BOUND = {
    # What ties an instruction to its session, beside the round's name that it carries.
    Train: "nothing but the round",
    AdvertiseKeys: "nothing but the round",
    Closed: "nothing but the round",
    ShareSecrets: "own keys",
    SendMasked: "another session",
    SignSurvivors: "another session",
    Reveal: "another session",
}
BEFORE = {
    Train: Phase.TRAINING,
    AdvertiseKeys: Phase.KEYS,
    ShareSecrets: Phase.SHARES,
    SendMasked: Phase.MASKED_UPDATE,
    SignSurvivors: Phase.SURVIVORS,
    Reveal: Phase.UNMASKING,
}


def test_every_kind_of_instruction_is_in_the_tables_of_replays():
    kinds = set(get_args(messages.Instruction))
    assert set(BOUND) == kinds
    assert set(BEFORE) == kinds - {Closed}


def recorded(label: str, site: str = "alder") -> dict[type, Instruction]:
    """All instructions to one site in a whole round, Closed among them."""
    found: dict[type, Instruction] = {}
    world = World(4, label=label, round=another_attempt(ROUND, -1) if label == "old" else ROUND)

    def note(to: SiteId, instruction: Instruction) -> Instruction:
        if to == site:
            found[type(instruction)] = instruction
        return instruction

    world.run(tamper=note)
    found[Closed] = world.coordinator.instruction_for(SiteId(site))
    return found


def standing_before(kind: type) -> World:
    world = World(4)
    if kind in (Train, Closed):
        return world
    world.run(until=BEFORE[kind])
    return world


@pytest.mark.parametrize("kind", BOUND, ids=lambda k: k.__name__)
def test_an_instruction_of_another_round_changes_nothing(kind):
    world = standing_before(kind)
    member = world.members["alder"]
    phase, sent = member.machine.phase, len(member.sent)
    with pytest.raises(PeerError, match="another round"):
        member.instruct(recorded("old")[kind])
    assert (member.machine.phase, len(member.sent)) == (phase, sent)


@pytest.mark.parametrize("kind", [k for k, tie in BOUND.items() if "round" not in tie])
@pytest.mark.parametrize("label", ["old", "elsewhere"])
def test_an_instruction_of_another_session_under_this_rounds_name_opens_nothing(kind, label):
    """Also of an attempt of the same name, as after a rollback of the coordinator."""
    world = standing_before(kind)
    member = world.members["alder"]
    sent = len(member.sent)
    with pytest.raises(PeerError, match=BOUND[kind]):
        member.instruct(replace(recorded(label)[kind], round=ROUND))
    assert member.machine.phase is SitePhase.REFUSED
    assert (len(member.sent), member.machine._secrets) == (sent, None)


@pytest.mark.parametrize("kind", [SendMasked, SignSurvivors, Reveal])
def test_an_instruction_of_another_session_with_this_sessions_id_opens_nothing(kind):
    world = standing_before(kind)
    member = world.members["alder"]
    sent = len(member.sent)
    lie = replace(recorded("elsewhere")[kind], round=ROUND, session=world.coordinator.session)
    if kind is SignSurvivors:  # its list is the same: the site signs for its own session
        (answer,) = member.instruct(lie)
        statement = survivor_statement(world.coordinator.session, world.names, world.names)
        assert world.authority.verify(SiteId("alder"), statement, answer.signature)
        return
    with pytest.raises(PeerError, match=r"do not open|did not sign"):
        member.instruct(lie)
    assert len(member.sent) == sent
    assert member.uploads == [] or kind is Reveal
