"""Cohorts of 100 on the complete graph and of 1,000 on a ring, and rounds with several sums."""

from __future__ import annotations

import random
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory_round import NAMES, Authority, World

from primia.protocol.events import Abort, Commit, Phase
from primia.secagg.topology import ring
from primia.types import SiteId

STAGES = [
    Phase.TRAINING,
    Phase.KEYS,
    Phase.SHARES,
    Phase.MASKED_UPDATE,
    Phase.SURVIVORS,
    Phase.UNMASKING,
]
IN_THE_SUM = (Phase.SURVIVORS, Phase.UNMASKING)


def lose(world: World, share: float, seed: int) -> dict[SiteId, Phase]:
    """A tenth of the sites, say, each at a stage drawn at random."""
    draw = random.Random(seed)
    lost = draw.sample(world.names, int(share * world.n))
    return {site: draw.choice(STAGES) for site in lost}


def check_sum(world: World, lost: dict[SiteId, Phase]) -> None:
    outcome = world.run(silent_from=lost)
    assert isinstance(outcome, Commit), outcome
    expected = tuple(s for s in world.names if lost.get(s, Phase.DONE) in (*IN_THE_SUM, Phase.DONE))
    assert outcome.contributors == expected
    assert np.array_equal(outcome.totals[0], world.plain_sum(expected))


def test_a_hundred_sites_of_which_ten_are_lost_give_the_exact_sum():
    world = World(100, quorum=67)
    check_sum(world, lose(world, 0.1, seed=4))


@pytest.mark.slow
def test_a_thousand_sites_of_which_a_hundred_are_lost_give_the_exact_sum():
    authority = Authority(NAMES)
    # In one process: a signature that one neighbour checked need not be checked by 160 others.
    authority.verify = lru_cache(None)(authority.verify)
    world = World(1000, quorum=667, authority=authority)
    check_sum(world, lose(world, 0.1, seed=5))


def test_on_a_ring_a_site_deals_with_its_neighbours_alone():
    world = World(101, quorum=68)
    world.run()
    degree, _ = ring(101)
    for member in world.members.values():
        shares, _, signature, revealed = member.sent[2:]
        assert len(shares.sealed) == degree
        assert len(revealed.self_seeds) == degree + 1
        assert signature.session == shares.session


@settings(max_examples=25, deadline=None)
@given(st.data(), st.integers(9, 10))
def test_with_groups_each_sum_is_exact_or_the_round_ends_without_one(data, n):
    world = World(n, quorum=9, groups=3)
    lost = data.draw(
        st.dictionaries(st.sampled_from(world.names), st.sampled_from(STAGES), max_size=2)
    )
    outcome = world.run(silent_from=lost)
    if isinstance(outcome, Abort):
        assert lost
        return
    assert sorted(s for group in outcome.groups for s in group) == list(outcome.contributors)
    for group, total in zip(outcome.groups, outcome.totals, strict=True):
        assert len(group) >= 3
        assert np.array_equal(total, world.plain_sum(group))


def test_a_group_below_three_sites_is_not_summed():
    world = World(9, quorum=3, groups=3)
    outcome = world.run(silent_from={world.names[0]: Phase.MASKED_UPDATE})
    assert isinstance(outcome, Abort)
    assert "only 2 sites left" in outcome.reason


def test_the_other_cipher_gives_the_same_sum_under_other_masks():
    uploads = []
    for cipher in ("aes-256-ctr", "chacha20"):
        world = World(4, cipher=cipher)
        outcome = world.run()
        assert isinstance(outcome, Commit)
        assert np.array_equal(outcome.totals[0], world.plain_sum(world.names))
        uploads.append(world.members[world.names[0]].uploads[0])
    assert not np.array_equal(*uploads)
