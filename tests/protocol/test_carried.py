"""An attempt read back from text goes on to the same sum, whoever answered before."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory_round import ROUND, World

from primia.errors import PeerError, StateError
from primia.protocol.carried import FROM, from_json
from primia.protocol.coordinator import CoordinatorRound
from primia.protocol.events import Commit, Phase
from primia.protocol.messages import KeyAdvert, Masked
from primia.types import SiteId


def restarted(world: World) -> CoordinatorRound:
    """What a coordinator makes of the text and the sums that it kept."""
    text = world.coordinator.carried.to_json()
    sums = tuple(total.copy() for total in world.coordinator.masked_sums)
    carried = from_json(text, ROUND)
    assert carried == world.coordinator.carried
    return CoordinatorRound.resume(world.terms, carried, sums, world.now)


def finish(world: World) -> Commit:
    """Ask whoever is waited for until the round is over."""
    for _ in range(20):
        for site in world.coordinator.waiting_for:
            instruction = world.coordinator.instruction_for(site)
            if instruction is None:
                continue
            for what in world.members[site].instruct(instruction):
                for command in world.deliver(site, what):
                    if isinstance(command, Commit):
                        return command
    raise AssertionError("the round does not end")


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(3, 9),
    phase=st.sampled_from(FROM),
    lost=st.booleans(),
    answered=st.integers(0, 9),
    groups=st.booleans(),
)
def test_a_coordinator_killed_in_the_last_phases_opens_the_same_sum(
    n: int, phase: Phase, lost: bool, answered: int, groups: bool
) -> None:
    if groups:
        n = 9
    world = World(n, groups=3 if groups else 1)
    gone = {world.names[1]: Phase.MASKED_UPDATE} if lost and n > 3 and not groups else {}
    world.run(silent_from=gone, until=phase)
    for site in world.coordinator.waiting_for[: min(answered, 1)]:  # its answer is lost
        world.members[site].instruct(world.coordinator.instruction_for(site))
    world.coordinator = restarted(world)
    commit = finish(world)
    assert set(commit.contributors) == set(world.names) - set(gone)
    for total, group in zip(commit.totals, commit.groups, strict=True):
        assert np.array_equal(total, world.plain_sum(group))


def test_what_came_before_the_restart_is_still_a_repeat_or_refused() -> None:
    world = World(4)
    world.run(until=Phase.SURVIVORS)
    sent = world.members[world.names[0]].sent
    upload = world.members[world.names[0]].uploads[0]
    world.coordinator = restarted(world)
    for kind in (KeyAdvert, Masked):
        (earlier,) = [a for a in sent if isinstance(a, kind)]
        assert world.deliver(world.names[0], earlier) == []
    before = [t.copy() for t in world.coordinator.masked_sums]
    assert world.deliver(world.names[0], upload) == []
    assert all(map(np.array_equal, before, world.coordinator.masked_sums))
    other = upload.copy()
    other[0] ^= 1
    with pytest.raises(PeerError, match="second, different"):
        world.deliver(world.names[0], other)


def test_a_site_that_was_dropped_is_not_asked_again() -> None:
    world = World(5)
    world.run(silent_from={SiteId("birch"): Phase.MASKED_UPDATE}, until=Phase.SURVIVORS)
    world.coordinator = restarted(world)
    assert "birch" not in world.coordinator.waiting_for
    assert [d.site for d in world.coordinator.dropped] == ["birch"]


@pytest.mark.parametrize("damage", ["", "{}", '{"phase": "no such"}', "cut"])
def test_a_damaged_text_is_named_and_not_resumed(damage: str) -> None:
    world = World(3)
    world.run(until=Phase.SURVIVORS)
    text = world.coordinator.carried.to_json()
    if damage == "cut":
        damage = json.dumps({**json.loads(text), "adverts": [["alder", "zz"]]})
    with pytest.raises(StateError, match="restore"):
        from_json(damage, ROUND)
