"""A lying coordinator against the ring graph of large studies.

Run on rings of a few sites (`thief.small_ring`), where what the attacker gets can be worked out
for every set of sites; the real parameters are held against the same rule in numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from math import comb, log2

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_memory_round import ROUND, World
from thief import Thief, small_ring, without

from primia.errors import PeerError, PolicyRefused
from primia.protocol.events import Abort, Commit, Phase
from primia.protocol.messages import (
    AdvertiseKeys,
    Instruction,
    Reveal,
    RevealedShares,
    SendMasked,
    ShareSecrets,
    SignSurvivors,
    SurvivorSignature,
    Train,
)
from primia.protocol.session import survivor_statement
from primia.protocol.site import SitePhase
from primia.secagg.topology import COLLUDING, SECURITY_BITS, Topology, ring, threshold
from primia.types import SiteId


@pytest.fixture
def on_a_ring() -> Iterator[None]:
    """Four neighbours each; any four of the five holders open a secret: safe from two friends."""
    with small_ring(degree=4, threshold=4):
        yield


def neighbours(world: World, site: SiteId) -> tuple[SiteId, ...]:
    return tuple(s for s in world.members[site].machine._topology.holders(site) if s != site)


# --- the thief itself ---


def test_the_thief_gets_the_sum_that_it_is_meant_to_get_and_no_smaller_one(on_a_ring):
    world = World(8)
    world.run(until=Phase.UNMASKING)
    thief = Thief(world)
    assert thief.opens(world.names)
    assert np.array_equal(thief.sum_of(world.names), world.plain_sum(world.names))
    assert thief.smallest() == 8


def test_the_thief_opens_one_site_when_all_others_are_its_friends():
    world = World(4)
    world.run(until=Phase.UNMASKING)
    victim = world.names[1]
    thief = Thief(world, [s for s in world.names if s != victim])
    assert np.array_equal(thief.sum_of([victim]), world.plain_sum([victim]))


# --- the ring: whose neighbour is who ---


def test_reordering_or_renaming_by_the_coordinator_moves_nobody(on_a_ring):
    world = World(8)
    world.run(until=Phase.SHARES)
    honest = world.coordinator.instruction_for(world.names[0])
    assert isinstance(honest, ShareSecrets)
    for site in world.names:
        world.members[site].instruct(honest)
    session = world.members[world.names[0]].machine._topology.session
    graph = Topology(session, world.names)
    reordered = Topology(session, world.names[::-1])
    for site in world.names:
        told = world.members[site].machine._topology
        assert told.holders(site) == graph.holders(site) == reordered.holders(site)

    swapped = World(8, label="swapped")
    swapped.run(until=Phase.SHARES)
    adverts = swapped.coordinator.instruction_for(swapped.names[0]).adverts
    backwards = ShareSecrets(ROUND, adverts[::-1])
    with pytest.raises(PeerError, match="not sorted"):
        swapped.members[swapped.names[0]].instruct(backwards)
    one, other = adverts[2], adverts[5]
    renamed = list(adverts)
    renamed[2], renamed[5] = replace(other, site=one.site), replace(one, site=other.site)
    told = ShareSecrets(ROUND, tuple(renamed))
    refusing = set()
    for site in swapped.names[1:]:
        try:
            swapped.members[site].instruct(told)
        except PeerError:
            refusing.add(site)
    machines = [swapped.members[s].machine._topology for s in swapped.names[1:]]
    graph = next(t for t in machines if t is not None)
    assert refusing >= ({*graph.holders(one.site), *graph.holders(other.site)} - {adverts[0].site})


def test_a_site_opens_its_neighbours_alone(on_a_ring):
    world = World(9)
    lost = world.names[4]
    assert isinstance(world.run(silent_from={lost: Phase.MASKED_UPDATE}), Commit)
    for site in world.names:
        for answer in world.members[site].sent:
            if isinstance(answer, RevealedShares):
                owners = {site, *neighbours(world, site)}
                assert set(answer.self_seeds) == owners - {lost}
                assert set(answer.mask_keys) == owners & {lost}


def test_a_forged_advert_drives_every_site_away(on_a_ring):
    world = World(16)
    forged = world.names[7]

    def tamper(site: SiteId, instruction: Instruction) -> Instruction:
        if not isinstance(instruction, ShareSecrets):
            return instruction
        adverts = tuple(
            replace(a, signature=bytes(64)) if a.site == forged else a for a in instruction.adverts
        )
        return replace(instruction, adverts=adverts)

    outcome = world.run(tamper=tamper)
    left = {s for s in world.names if world.members[s].machine.phase is SitePhase.REFUSED}
    assert left == set(world.names)  # neighbours or not: no list is padded with made-up sites
    assert isinstance(outcome, Abort)
    assert not any(member.uploads for member in world.members.values())


@pytest.mark.parametrize("what", ["withheld", "not a neighbour's"])
def test_sealed_shares_are_one_from_each_neighbour_and_from_nobody_else(on_a_ring, what):
    world = World(9)
    world.run(until=Phase.MASKED_UPDATE)
    victim = world.names[0]
    instruction = world.coordinator.instruction_for(victim)
    sealed = dict(instruction.sealed)
    near = neighbours(world, victim)
    assert set(sealed) == set(near)
    if what == "withheld":
        del sealed[near[2]]
    else:
        stranger = next(s for s in world.names if s not in (*near, victim))
        sealed[stranger] = sealed[near[0]]
    with pytest.raises(PeerError, match="not one from each neighbour"):
        world.members[victim].instruct(replace(instruction, sealed=sealed))
    assert world.members[victim].uploads == []


# --- the ring: lies about mask partners and survivors ---


def robbed(n: int, friends: int) -> tuple[World, SiteId, Thief]:
    """One site is told that its honest neighbours, as many as may be missing, did not share; all
    others hear the truth."""
    world = World(n)
    world.minds_no_signature()  # for the coordinator lies
    victim = world.names[3]
    accomplices: set[SiteId] = set()

    def tamper(site: SiteId, instruction: Instruction) -> Instruction:
        if site != victim or not isinstance(instruction, SendMasked):
            return instruction
        near = neighbours(world, victim)
        accomplices.update(near[:friends])
        return without(instruction, set(near[friends:][: n - threshold(n)]))

    # What the victim would sign does not matter: it is not asked again.
    world.run(tamper=tamper, silent_from={victim: Phase.SURVIVORS}, until=Phase.UNMASKING)
    return world, victim, Thief(world, accomplices)


@pytest.mark.parametrize(("n", "friends"), [(13, 0), (8, 2)])
def test_a_site_that_was_told_of_too_few_neighbours_is_not_opened(on_a_ring, n, friends):
    world, victim, thief = robbed(n, friends)
    stolen = thief.opens([victim])
    if stolen:  # not for the wrong reason
        assert np.array_equal(thief.sum_of([victim]), world.plain_sum([victim]))
    assert not stolen


def test_a_site_masks_with_enough_neighbours_or_not_at_all(on_a_ring):
    """Four of its five holders open it, so three neighbours at least must mask with it."""
    for hidden, refused in ((1, False), (2, True)):
        world = World(16)
        world.run(until=Phase.MASKED_UPDATE)
        site = world.names[3]
        told = world.coordinator.instruction_for(site)
        lie = without(told, neighbours(world, site)[:hidden])
        if refused:
            with pytest.raises(PolicyRefused, match="neighbours shared"):
                world.members[site].instruct(lie)
        else:
            world.members[site].instruct(lie)
        assert bool(world.members[site].uploads) is not refused


def test_a_site_that_masked_among_others_than_it_should_is_not_opened(on_a_ring):
    """Its neighbours see from its own signature that it was told otherwise, and open nobody."""
    world = World(16)
    world.minds_no_signature()  # for the coordinator lies
    world.run(until=Phase.MASKED_UPDATE)
    victim = world.names[3]
    away = (*neighbours(world, victim), victim)
    far = next(s for s in world.names if s not in away)
    for site in world.names:
        told = world.coordinator.instruction_for(site)
        lie = without(told, {far}) if site == victim else told
        for what in world.members[site].instruct(lie):
            world.deliver(site, what)
    signatures = {}
    for site in set(world.names) - {victim}:
        (answer,) = world.members[site].instruct(world.coordinator.instruction_for(site))
        signatures[site] = answer.signature
    for site in neighbours(world, victim):
        with pytest.raises(PeerError, match="masked among other sites"):
            world.members[site].instruct(world.reveal(site, signatures))


def test_where_everybody_is_a_neighbour_no_lie_about_partners_opens_a_site():
    """Three of ten collude, three more are hidden from the victim; three honest masks remain."""
    world, victim, thief = robbed(10, 3)
    assert len(world.members[victim].machine._masked_among) == threshold(10)
    assert not thief.opens([victim])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_whatever_lists_eight_sites_on_a_ring_are_told_no_sum_of_fewer_than_six_is_opened(data):
    """Every site may hear other mask partners and other survivors; two thirds of 8 are 6."""
    with small_ring(degree=4, threshold=4):
        world = World(8)
        pairs = st.sets(st.sampled_from(world.names), max_size=2)
        few = data.draw(st.lists(pairs, min_size=1, max_size=3))
        told = data.draw(st.lists(st.sampled_from(few), min_size=16, max_size=16))
        world.run(until=Phase.MASKED_UPDATE)
        for i, site in enumerate(world.names):
            gone = told[i] - {site}
            with suppress(PolicyRefused):  # may well ask for more neighbours than are left
                world.members[site].instruct(without(world.coordinator.instruction_for(site), gone))
        session = world.coordinator.session
        signatures: dict[SiteId, bytes] = {}
        for i, site in enumerate(world.names):
            machine = world.members[site].machine
            alive = tuple(s for s in machine._masked_among if s not in told[8 + i] - {site})
            try:
                (answer,) = world.members[site].instruct(SignSurvivors(ROUND, session, alive))
            except (PolicyRefused, PeerError):  # fewer than six, or it has left
                continue
            assert isinstance(answer, SurvivorSignature)
            signatures[site] = answer.signature
        for site in world.names:
            machine = world.members[site].machine
            if machine.phase is not SitePhase.SIGNED:
                continue
            statement = survivor_statement(session, machine._masked_among, machine._survivors)
            same = {  # the coordinator's best choice: every signature that this site will accept
                s: sig for s, sig in signatures.items()
                if s in machine._survivors and world.authority.verify(s, statement, sig)
            }  # fmt: skip
            with suppress(PeerError):
                world.members[site].instruct(world.reveal(site, same))
        thief = Thief(world)
        assert thief.smallest() >= 6


def test_two_walls_of_friends_and_lost_sites_cut_a_ring_in_two(on_a_ring):
    """Why the threshold must lie above half of the holders and the friends in the other half.

    Here two friends, each beside one site that is called lost, divide 16 sites: every list is
    the same for all, and yet the sums of both stretches are opened.
    """
    world = World(16)
    world.run(until=Phase.MASKED_UPDATE)
    order = world.coordinator._topology._order
    friends, lost = {order[0], order[8]}, {order[1], order[9]}
    between = order[2:8]
    world = World(16)
    world.run(silent_from=dict.fromkeys(lost, Phase.SURVIVORS), until=Phase.MASKED_UPDATE)
    for site in world.names:  # all upload; the coordinator calls two of them lost
        world.members[site].instruct(world.coordinator.instruction_for(site))
    session = world.coordinator.session
    alive = tuple(s for s in world.names if s not in lost)
    signatures = {
        s: world.members[s].instruct(SignSurvivors(ROUND, session, alive))[0].signature
        for s in alive
    }
    pooled = {f: world.members[f].machine._secrets for f in friends}
    for site in alive:
        world.members[site].instruct(world.reveal(site, signatures))
    for friend, secrets in pooled.items():
        world.members[friend].machine._secrets = secrets
    thief = Thief(world, friends)
    assert thief.opens(between)
    assert np.array_equal(thief.sum_of(between), world.plain_sum(between))
    assert len(between) < threshold(16)


def two_walls(n: int) -> float:
    """log2 of a bound on the chance that friends fill two half-neighbourhoods of `n` so far that
    a ring can be cut there: a site beside a wall has its other half, itself and the friends."""
    degree, t = ring(n)
    half, friends = degree // 2, int(COLLUDING * n)
    needed = t - (half + 1)
    ways = sum(
        comb(friends, x) * comb(n - 1 - friends, half - x)
        for x in range(needed, min(half, friends) + 1)
    )
    if ways == 0:
        return float("-inf")
    return 2 * (log2(n) + log2(ways) - log2(comb(n - 1, half))) - 1


@pytest.mark.parametrize("n", [101, 200, 500, 1000])
def test_a_ring_is_cut_in_two_with_probability_below_the_security_level(n):
    assert two_walls(n) <= -SECURITY_BITS


# --- two models on a ring ---


def test_on_a_ring_a_site_with_another_model_is_noticed_by_all(on_a_ring):
    """Both sides of each pair report; nobody else's sum is wrong."""
    world = World(12)
    victim = world.names[5]
    other_model = replace(ROUND, model="c" * 64)
    world.members[victim] = World(12, round=other_model, label="victim").members[victim]
    adverts = {}
    for site in world.names:
        theirs = other_model if site == victim else ROUND
        world.members[site].instruct(Train(theirs))
        (adverts[site],) = world.members[site].instruct(AdvertiseKeys(theirs, world.names))
    left = set()
    for site in world.names:
        theirs = other_model if site == victim else ROUND
        renamed = tuple(
            adverts[s] if s == site else replace(adverts[s], round=theirs) for s in world.names
        )
        try:
            world.members[site].instruct(ShareSecrets(theirs, renamed))
        except PeerError as err:
            assert "round, model" in str(err)  # noqa: PT017
            left.add(site)
    assert left == set(world.names)


def test_a_round_of_which_too_many_left_is_aborted(on_a_ring):
    world = World(9)

    def tamper(site: SiteId, instruction: Instruction) -> Instruction:
        if isinstance(instruction, ShareSecrets):
            forged = tuple(replace(a, seed_commitment=bytes(32)) for a in instruction.adverts)
            return replace(instruction, adverts=forged)
        return instruction

    assert isinstance(world.run(tamper=tamper), Abort)


# --- everything at once ---


@pytest.fixture(scope="module")
def ring_hoard() -> list[Instruction]:
    """What an attacker could hold for one site of eight on a ring: of its session, with a site
    lost or not, of another session, and with lies."""
    pool: list[Instruction] = []
    with small_ring(degree=4, threshold=4):
        for label in ("world", "elsewhere"):
            for lost in (None, "dogwood", "hazel"):

                def note(site: SiteId, instruction: Instruction) -> Instruction:
                    if site == "alder":
                        pool.append(instruction)
                    return instruction

                silent = {} if lost is None else {SiteId(lost): Phase.MASKED_UPDATE}
                World(8, label=label).run(silent_from=silent, tamper=note)
    for item in list(pool):
        if isinstance(item, SendMasked):
            pool += [without(item, {s}) for s in item.among if s != "alder"]
        if isinstance(item, SignSurvivors):
            pool += [
                replace(item, survivors=tuple(s for s in item.survivors if s != gone))
                for gone in ("birch", "cedar")
            ]
        if isinstance(item, Reveal):
            pool.append(replace(item, signatures=dict(list(item.signatures.items())[:3])))
    return pool


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_order_of_true_and_false_instructions_on_a_ring_opens_a_peer_both_ways(ring_hoard, data):
    with small_ring(degree=4, threshold=4):
        world = World(8)
        member = world.members[SiteId("alder")]
        order = data.draw(st.lists(st.sampled_from(range(len(ring_hoard))), max_size=25))
        if data.draw(st.booleans()):  # help it to get far more often
            order = sorted(order)
        for index in order:
            with suppress(PeerError, PolicyRefused):
                member.instruct(ring_hoard[index])
        opened = {
            (frozenset(a.self_seeds), frozenset(a.mask_keys))
            for a in member.sent
            if isinstance(a, RevealedShares)
        }
        assert len(opened) <= 1
        for seeds, lost in opened:
            assert not seeds & lost
            assert seeds | lost <= set(member.machine._topology.holders(SiteId("alder")))
        assert len({a.signature for a in member.sent if isinstance(a, SurvivorSignature)}) <= 1
        assert len({u.tobytes() for u in member.uploads}) <= 1


def test_the_hoard_of_the_ring_lets_an_attacker_get_to_the_end(ring_hoard):
    with small_ring(degree=4, threshold=4):
        member = World(8).members[SiteId("alder")]
        for instruction in ring_hoard:
            try:
                member.instruct(instruction)
            except (PeerError, PolicyRefused):
                break
        assert any(isinstance(a, RevealedShares) for a in member.sent)
