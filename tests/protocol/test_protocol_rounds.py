"""Whole rounds: any set of sites lost at any stage gives the exact sum or a clean abort."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory_round import NAMES, World

from primia.protocol.events import Abort, Commit, Phase
from primia.protocol.messages import Outcome
from primia.secagg import decode_sum, encode, encoding_step
from primia.secagg.layout import Layout, Vector
from primia.types import SiteId

STAGES = [
    Phase.TRAINING,
    Phase.KEYS,
    Phase.SHARES,
    Phase.MASKED_UPDATE,
    Phase.SURVIVORS,
    Phase.UNMASKING,
]
THRESHOLD = {3: 3, 4: 3, 5: 4, 6: 5, 7: 5}  # floor(2n/3) + 1, written out


def expected_contributors(world: World, lost_at: dict[SiteId, Phase]) -> tuple[SiteId, ...] | None:
    """The plain reference: who is in the sum, or None when the round must abort."""

    def alive(stage: Phase, sites: list[SiteId]) -> list[SiteId]:
        return [s for s in sites if lost_at.get(s) is not stage]

    ready = alive(Phase.TRAINING, list(world.names))
    if len(ready) < world.quorum:
        return None
    keyed = alive(Phase.KEYS, ready)
    if len(keyed) < max(THRESHOLD[len(ready)], world.quorum):
        return None
    t = THRESHOLD[len(keyed)]
    shared = alive(Phase.SHARES, keyed)
    arrived = alive(Phase.MASKED_UPDATE, shared)
    signed = alive(Phase.SURVIVORS, arrived)
    opened = alive(Phase.UNMASKING, signed)
    least = max(t, world.quorum)
    if len(shared) < least or len(arrived) < least or len(signed) < t or len(opened) < t:
        return None
    return tuple(arrived)


def check_outcome(world: World, lost_at: dict[SiteId, Phase]) -> None:
    outcome = world.run(silent_from=lost_at)
    expected = expected_contributors(world, lost_at)
    if expected is None:
        assert isinstance(outcome, Abort)
        assert world.coordinator.phase is Phase.ABORTED
        assert set(outcome.missing) <= set(lost_at)
        assert all(site in outcome.reason for site in outcome.missing)
    else:
        assert isinstance(outcome, Commit)
        assert outcome.contributors == expected
        assert np.array_equal(outcome.totals[0], world.plain_sum(expected))
        dropped = {d.site: d.phase for d in world.coordinator.dropped}
        for site, phase in dropped.items():
            assert lost_at[site] is phase


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("n", [3, 4, 5])
def test_every_subset_lost_at_one_stage_gives_the_exact_sum_or_an_abort(n, stage):
    for size in range(n + 1):
        for lost in itertools.combinations(NAMES[:n], size):
            check_outcome(World(n), {SiteId(s): stage for s in lost})


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(4, 7))
def test_sites_lost_at_different_stages_give_the_exact_sum_or_an_abort(data, n):
    lost = data.draw(
        st.dictionaries(st.sampled_from([SiteId(s) for s in NAMES[:n]]), st.sampled_from(STAGES))
    )
    check_outcome(World(n), lost)


def test_every_site_hears_the_end_and_keeps_no_secret():
    world = World(4)
    outcome = world.run(silent_from={world.names[3]: Phase.MASKED_UPDATE})
    assert isinstance(outcome, Commit)
    for site in world.names:
        closed = world.coordinator.instruction_for(site)
        assert closed.outcome is Outcome.COMMITTED
        world.members[site].instruct(closed)
        assert world.members[site].machine._secrets is None
        assert world.members[site].machine._vector is None
    assert not world.coordinator._revealed
    assert not world.coordinator._sums


def test_the_aggregate_is_the_plain_mean_of_three_updates_to_within_the_encoding_step():
    rng = np.random.default_rng(5)
    updates = [rng.normal(0, 0.5, 1000).astype(np.float32) for _ in range(3)]
    bits, value_range = 24, 4.0
    encoded = {
        SiteId(name): encode(update, bits=bits, value_range=value_range)[0]
        for name, update in zip(NAMES, updates, strict=False)
    }
    world = World(3, layout=Layout((Vector("update", 1000),)), vectors=encoded)
    outcome = world.run()
    assert isinstance(outcome, Commit)
    total = decode_sum(outcome.totals[0], bits=bits, value_range=value_range, sites=3)
    plain = np.mean(np.array(updates, np.float64), axis=0)
    step = encoding_step(bits=bits, value_range=value_range)
    assert np.max(np.abs(total / 3 - plain)) <= step / 2 * 1.000001  # each rounds by half a step
