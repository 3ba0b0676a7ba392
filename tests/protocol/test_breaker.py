"""A coordinator that lies about lists, with as many friends as plans and rings allow for."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from in_memory_round import NAMES, ROUND, World
from thief import Thief, small_ring, without

from primia.config.plan import StudyPlan
from primia.errors import PeerError
from primia.protocol.events import Phase
from primia.protocol.messages import SignSurvivors
from primia.protocol.session import survivor_statement
from primia.secagg.topology import threshold


def collusion_priced(sites: int, quorum: int) -> int:
    """How many friends of the coordinator a plan's shared noise is made for, by default."""
    made = StudyPlan.model_validate(
        {
            "study": "shared", "sites": tuple(NAMES[:sites]), "rounds": 1,
            "model": {"name": "small-cnn", "input_size": 28, "classes": ("no", "yes")},
            "schedule": {"quorum": quorum},
            "training": {
                "patient_sampling_rate": 0.5, "local_steps": 1, "expected_patients": 5,
                "learning_rate": 1.0,
            },
            "privacy": {"noise_multiplier": 2.0, "delta": 1e-3, "noise": "distributed"},
        }
    )  # fmt: skip
    return made.colluding_sites


def test_the_friends_that_shared_noise_allows_for_open_no_single_site() -> None:
    """A roster of 10; the coordinator goes on with 7, one more than the quorum. Its two camps hear
    of lists that both keep to the quorum: all seven, and all but the victim."""
    n, quorum = 7, 6
    collude = collusion_priced(10, quorum)
    world = World(n, quorum=quorum)
    for site in world.names:
        world.members[site] = world.member(site, plan_floor=quorum)
    world.run(until=Phase.MASKED_UPDATE)
    for site in world.names:
        world.members[site].instruct(world.coordinator.instruction_for(site))
    friends, victim = set(world.names[:collude]), world.names[3]
    session, everybody = world.coordinator.session, world.names
    others = tuple(s for s in everybody if s != victim)
    camps = {everybody: {*world.names[:5]}, others: {*world.names[:3], *world.names[5:]}}
    pooled = {f: world.members[f].machine._secrets for f in friends}
    for told, camp in camps.items():
        signed = {
            f: world.authority.sign_as(f)(survivor_statement(session, everybody, told))
            for f in friends
        }
        for site in sorted(camp - friends):
            with suppress(PeerError):  # an honest site in both camps signs for one
                (answer,) = world.members[site].instruct(SignSurvivors(ROUND, session, told))
                signed[site] = answer.signature
        for site in sorted(camp - friends):
            with suppress(PeerError):
                world.members[site].instruct(world.reveal(site, signed, friends))
    for friend, secrets in pooled.items():
        world.members[friend].machine._secrets = secrets
    thief = Thief(world, friends)
    stolen = thief.opens([victim])
    if stolen:
        assert np.array_equal(thief.sum_of([victim]), world.plain_sum([victim]))
    assert not stolen


def test_two_camps_that_overlap_at_two_walls_do_not_cut_a_ring() -> None:
    """Degree 12, threshold 10, 40 sites, two walls of two friends: never more than 2 friends on one
    side of a site and 4 around it, so 2t > k + 1 + c + 2 and t > k/2 + 1 + c' both hold.

    One camp is told that the three sites behind each wall did not share, so it does not mask with
    them; the other camp, those three in it, is told that all did, and opens self seeds of the
    first camp's outermost sites. One site in each wall is lost for both.
    """
    n, degree, t = 40, 12, 10
    with small_ring(degree=degree, threshold=t):
        world = World(n)
        world.run(until=Phase.MASKED_UPDATE)
        order = world.coordinator._topology._order
        inner, walls = order[:16], (order[16:19], order[37:40])
        friends = {*walls[0][:2], *walls[1][1:]}
        lost = {walls[0][2], walls[1][0]}
        hidden = {*order[19:22], *order[34:37]}
        for here in range(n):  # the conditions of topology.ring hold for these friends
            one_side = [order[(here + i) % n] for i in range(1, degree // 2 + 1)]
            around = [order[(here + i) % n] for i in range(-degree // 2, degree // 2 + 1)]
            assert t > degree // 2 + 1 + len(friends & set(one_side))
            assert 2 * t > degree + 1 + len(friends & set(around)) + 2
        outer = order[19:37]
        for site in world.names:
            told = world.coordinator.instruction_for(site)
            world.members[site].instruct(without(told, hidden if site in inner else ()))
        session = world.coordinator.session
        everybody = frozenset(world.names)
        pooled = {f: world.members[f].machine._secrets for f in friends}
        for camp, gone in ((inner, hidden), (outer, set())):
            among = tuple(sorted(everybody - gone))
            alive = tuple(s for s in among if s not in lost)
            statement = survivor_statement(session, among, alive)
            signed = {f: world.authority.sign_as(f)(statement) for f in friends}
            for site in camp:
                (answer,) = world.members[site].instruct(SignSurvivors(ROUND, session, alive))
                signed[site] = answer.signature
            for site in camp:
                with suppress(PeerError):  # those at the walls see who masked among others
                    world.members[site].instruct(world.reveal(site, signed, friends))
        for friend, secrets in pooled.items():
            world.members[friend].machine._secrets = secrets
        thief = Thief(world, friends)
        stolen = thief.opens(inner)
        if stolen:
            assert np.array_equal(thief.sum_of(inner), world.plain_sum(inner))
            assert len(inner) < threshold(n)
        assert not stolen
