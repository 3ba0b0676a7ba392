"""Lying and failing workers against the coordinator's machine, on both graphs.

What the coordinator does with one odd answer is in `test_coordinator_round`; here whole rounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory_round import NAMES, ROUND, World, another_attempt, silent, stream
from thief import small_ring

from primia.errors import PeerError, PolicyRefused
from primia.protocol.events import Abort, Command, Commit, Phase, Tell, Tick
from primia.protocol.messages import (
    Answer,
    Declined,
    KeyAdvert,
    Masked,
    Ready,
    RevealedShares,
    SealedShares,
    SurvivorSignature,
)
from primia.protocol.site import SitePhase
from primia.secagg import keys, shares
from primia.types import SiteId
from primia.wire.convert import answer_to_bytes

STAGES = [
    Phase.TRAINING,
    Phase.KEYS,
    Phase.SHARES,
    Phase.MASKED_UPDATE,
    Phase.SURVIVORS,
    Phase.UNMASKING,
]
GRAPHS = pytest.mark.parametrize("graph", ["complete", "ring"])
Lie = Callable[[SiteId, object], object]


def on(graph: str) -> object:
    return small_ring(degree=4, threshold=4) if graph == "ring" else nullcontext()


def play(world: World, lie: Lie, *, lost: dict[SiteId, Phase] | None = None) -> Commit | Abort:
    """A round in which `lie` may change all that leaves a site; what is refused is not sent again.

    `lost` are the sites that fall silent, and from when.
    """
    commands: list[Command] = world.coordinator.start()
    while True:
        for command in commands:
            if isinstance(command, Commit | Abort):
                return command
        queue, commands = commands, []
        for tell in queue:
            assert isinstance(tell, Tell)
            if silent(world.coordinator.phase, (lost or {}).get(tell.site)):
                continue
            try:
                leaving = world.members[tell.site].instruct(tell.instruction)
            except (PeerError, PolicyRefused):
                continue
            for what in leaving:
                try:
                    commands += world.deliver(tell.site, lie(tell.site, what))
                except PeerError:
                    continue
        if not commands:
            deadline = world.coordinator.next_deadline
            assert deadline is not None
            world.now = max(world.now, deadline)
            commands = world.coordinator.handle(Tick(), world.now)


def exact(world: World, outcome: Commit | Abort) -> bool:
    """Committed, and every group's sum is that of Python integers."""
    return isinstance(outcome, Commit) and all(
        np.array_equal(total, world.plain_sum(group))
        for group, total in zip(outcome.groups, outcome.totals, strict=True)
    )


# --- wrong shares ---


def wrong_share_of(owner: SiteId, kind: str) -> Callable[[object], object]:
    def spoil(answer: object) -> object:
        given = dict(getattr(answer, kind, {}))
        if not isinstance(answer, RevealedShares) or owner not in given:
            return answer
        given[owner] = given[owner][:16] + bytes([given[owner][16] ^ 1]) + given[owner][17:]
        return replace(answer, **{kind: given})

    return spoil


@GRAPHS
@pytest.mark.parametrize("kind", ["self_seeds", "mask_keys"])
def test_one_corrupted_share_is_named_and_not_summed(graph, kind):
    """With one share to spare the liar is found; the sum is exact."""
    with on(graph):
        world = World(9)
        world.run(until=Phase.SHARES)
        world.members[world.names[0]].instruct(world.coordinator.instruction_for(world.names[0]))
        holders = world.members[world.names[0]].machine._topology.holders(world.names[0])
        liar, lost = next(s for s in holders if s != world.names[0]), world.names[0]
        spoil = wrong_share_of(lost, kind)
        world = World(9)
        fell = {lost: Phase.MASKED_UPDATE} if kind == "mask_keys" else {}

        def lie(site: SiteId, what: object) -> object:
            return spoil(what) if site == liar else what

        outcome = play(world, lie, lost=fell)
        wrong = [d.site for d in world.coordinator.dropped if "wrong share" in d.reason]
        if kind == "mask_keys" and graph == "ring":
            # Of five holders one is lost and one lies: three true shares are one too few.
            assert isinstance(outcome, Abort)
            assert f"mask key of {lost}" in outcome.reason
            return
        assert exact(world, outcome)
        assert wrong in ([liar], [])  # [] when enough others had answered before it
        if wrong == []:
            assert liar in world.coordinator.waiting_for


@GRAPHS
def test_a_corrupted_share_that_comes_first_is_always_named(graph):
    with on(graph):
        world = World(9)
        world.run(until=Phase.UNMASKING)
        liar = world.names[0]
        owner = max(world.coordinator._topology.holders(liar))
        spoil = wrong_share_of(owner, "self_seeds")
        commands: list[Command] = []
        for site in world.names:
            if commands:
                break
            (answer,) = world.members[site].instruct(world.coordinator.instruction_for(site))
            commands = world.deliver(site, spoil(answer) if site == liar else answer)
        assert exact(world, commands[0])
        wrong = [d.site for d in world.coordinator.dropped if "wrong share" in d.reason]
        assert wrong == [liar]


@GRAPHS
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_corrupted_shares_of_any_sites_never_give_a_wrong_sum(graph, data):
    with on(graph):
        world = World(8)
        liars = data.draw(st.sets(st.sampled_from(world.names)))
        owner = data.draw(st.sampled_from(world.names))
        lost = data.draw(st.sampled_from([{}, {owner: Phase.MASKED_UPDATE}]))
        spoil = wrong_share_of(owner, "mask_keys" if lost else "self_seeds")

        def lie(site: SiteId, what: object) -> object:
            return spoil(what) if site in liars else what

        outcome = play(world, lie, lost=lost)
        assert exact(world, outcome) or isinstance(outcome, Abort)
        if len(liars) < 2:
            named = {d.site for d in world.coordinator.dropped if "wrong share" in d.reason}
            assert named <= liars


def test_a_share_that_is_wrong_in_any_one_bit_of_a_mask_key_does_not_pass_for_right():
    raw = bytearray(stream("mask key")(32))
    raw[0], raw[31] = raw[0] & 248, raw[31] & 127 | 64  # as RFC 7748, section 5, reads it
    pair = keys.key_pair(bytes(raw))
    for bit in range(256):
        other = (int.from_bytes(pair.private, "big") ^ (1 << bit)).to_bytes(32, "big")
        assert not keys.matches(other, pair.public), bit


def test_two_sites_whose_wrong_shares_cancel_have_no_honest_site_blamed():
    secret = stream("secret")(32)
    made = shares.split(
        secret, holders=5, threshold=2, entropy=stream("coefficients")(shares.entropy_bytes(2))
    )
    given = dict(enumerate(made, start=1))
    for x, error in ((1, 1), (2, 2)):  # at 0 the first two shares weigh 2 and -1
        wrong = (int.from_bytes(given[x], "big") + error) % shares.PRIME
        given[x] = wrong.to_bytes(shares.SHARE_BYTES, "big")
    found, blamed = shares.recover(given, threshold=2, accept=lambda s: s == secret)
    assert found == secret
    assert not blamed & {3, 4, 5}


@GRAPHS
def test_garbage_sealed_by_one_site_drives_its_neighbours_away_and_gives_no_wrong_sum(graph):
    with on(graph):
        world = World(9)
        liar = world.names[4]

        def lie(site: SiteId, what: object) -> object:
            if site == liar and isinstance(what, SealedShares):
                return replace(what, sealed={s: bytes(len(c)) for s, c in what.sealed.items()})
            return what

        outcome = play(world, lie)
        assert isinstance(outcome, Abort) or exact(world, outcome)
        near = set(world.coordinator._topology.holders(liar)) - {liar}
        for site in near:
            assert world.members[site].machine.phase is SitePhase.REFUSED
            assert world.members[site].uploads == []


# --- answers in another's name, of another round, of another session ---

AT = {
    Ready: Phase.TRAINING,
    Declined: Phase.TRAINING,
    KeyAdvert: Phase.KEYS,
    SealedShares: Phase.SHARES,
    Masked: Phase.MASKED_UPDATE,
    SurvivorSignature: Phase.SURVIVORS,
    RevealedShares: Phase.UNMASKING,
}
UNBOUND = {Ready, Declined}  # say nothing but the name of the round


def answer_of_kind(kind: type, label: str, site: SiteId, graph_names: int = 9) -> Answer:
    """What `site` answers in a round of 9 sites under that label."""
    if kind is Declined:
        return Declined(ROUND, "disk full")
    world = World(graph_names, label=label)
    if kind is Ready:
        return Ready(ROUND)
    world.run(until=AT[kind])
    answer, *_ = world.members[site].instruct(world.coordinator.instruction_for(site))
    assert isinstance(answer, kind)
    return answer


def before(kind: type) -> World:
    world = World(9)
    if AT[kind] is Phase.TRAINING:
        world.coordinator.start()
    else:
        world.run(until=AT[kind])
    return world


def test_every_kind_of_answer_is_in_the_table_of_replays():
    assert set(AT) == set(get_args(Answer))


@GRAPHS
@pytest.mark.parametrize("kind", AT, ids=lambda k: k.__name__)
def test_an_answer_of_another_attempt_is_refused(graph, kind):
    with on(graph):
        world = before(kind)
        site = world.names[0]
        old = replace(answer_of_kind(kind, "world", site), round=another_attempt(ROUND, -1))
        with pytest.raises(PeerError, match="another round"):
            world.deliver(site, old)
        assert world.coordinator.answered == ()


@GRAPHS
@pytest.mark.parametrize("kind", [k for k in AT if k not in UNBOUND], ids=lambda k: k.__name__)
def test_an_answer_of_another_session_or_site_is_refused(graph, kind):
    with on(graph):
        world = before(kind)
        site = world.names[0]
        if kind is KeyAdvert:  # signed for round and cohort; the keys need not be the same
            signed_elsewhere = World(8, label="elsewhere")
            signed_elsewhere.run(until=Phase.KEYS)
            (foreign,) = signed_elsewhere.members[site].instruct(
                signed_elsewhere.coordinator.instruction_for(site)
            )
        else:
            foreign = answer_of_kind(kind, "elsewhere", site)
            with pytest.raises(PeerError):
                world.deliver(site, replace(foreign, session=bytes(32)))
        with pytest.raises(PeerError):
            world.deliver(site, foreign)
        if kind is not RevealedShares or graph == "ring":
            # On the complete graph revealed shares are all alike; wrong ones are found by use.
            with pytest.raises(PeerError):
                world.deliver(site, answer_of_kind(kind, "world", world.names[1]))
        assert world.coordinator.answered == ()
        world.deliver(site, answer_of_kind(kind, "world", site))
        # After Masked the vectors are still to come.
        assert world.coordinator.answered == (() if kind is Masked else (site,))


@GRAPHS
def test_a_second_upload_counts_once_and_a_different_one_not_at_all(graph):
    with on(graph):
        world = World(9)
        world.run(until=Phase.MASKED_UPDATE)
        for site in world.names[:-1]:
            said, masked = world.members[site].instruct(world.coordinator.instruction_for(site))
            with pytest.raises(PeerError, match="say first"):
                world.deliver(site, masked)
            world.deliver(site, said)
            world.deliver(site, masked)
            assert world.deliver(site, masked) == []
            with pytest.raises(PeerError, match="second, different"):
                world.deliver(site, masked + np.uint32(1))
        assert exact(world, finish(world))


def finish(world: World) -> Commit | Abort:
    """Everybody answers what is open until the round is over."""
    while True:
        for site in world.coordinator.waiting_for:
            for what in world.members[site].instruct(world.coordinator.instruction_for(site)):
                for command in world.deliver(site, what):
                    if isinstance(command, Commit | Abort):
                        return command


# --- sites that are lost ---


def two_thirds(n: int) -> int:
    return 2 * n // 3 + 1


def expected(n: int, lost: dict[SiteId, Phase]) -> tuple[SiteId, ...] | None:
    """On the complete graph: who is in the sum, None when the round must abort."""

    def alive(stage: Phase, sites: list[SiteId]) -> list[SiteId]:
        return [s for s in sites if lost.get(s) is not stage]

    ready = alive(Phase.TRAINING, [SiteId(s) for s in NAMES[:n]])
    keyed = alive(Phase.KEYS, ready)
    if len(ready) < 3 or len(keyed) < max(3, two_thirds(len(ready))):
        return None
    least = max(3, two_thirds(len(keyed)))
    shared = alive(Phase.SHARES, keyed)
    arrived = alive(Phase.MASKED_UPDATE, shared)
    opened = alive(Phase.UNMASKING, alive(Phase.SURVIVORS, arrived))
    return tuple(arrived) if len(opened) >= least else None


@pytest.mark.parametrize("n", [3, 4])
@pytest.mark.parametrize("first", STAGES, ids=lambda p: p.value)
def test_every_two_subsets_lost_at_every_two_stages_give_the_exact_sum_or_an_abort(n, first):
    names = [SiteId(s) for s in NAMES[:n]]
    for second in STAGES[STAGES.index(first) :]:
        for fates in itertools.product((None, first, second), repeat=n):
            lost = {s: p for s, p in zip(names, fates, strict=True) if p is not None}
            if len(lost) > 2:  # nothing can be summed, and one stage has its own test
                continue
            world = World(n, length=5)
            outcome = world.run(silent_from=lost)
            who = expected(n, lost)
            if who is None:
                assert isinstance(outcome, Abort)
            else:
                assert isinstance(outcome, Commit)
                assert outcome.contributors == who
                assert exact(world, outcome)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_on_a_ring_sites_lost_at_any_stages_give_the_exact_sum_or_an_abort(data):
    with small_ring(degree=4, threshold=4):
        world = World(9)
        lost = data.draw(
            st.dictionaries(st.sampled_from(world.names), st.sampled_from(STAGES), max_size=3)
        )
        outcome = world.run(silent_from=lost)
        if isinstance(outcome, Abort):
            assert lost
            return
        assert isinstance(outcome, Commit)
        in_sum = {s for s in world.names if lost.get(s) in (None, *STAGES[4:])}
        assert set(outcome.contributors) == in_sum
        assert exact(world, outcome)


def test_on_a_ring_no_single_site_lost_at_any_stage_stops_a_round():
    """Else the property above could hold because every round is aborted."""
    with small_ring(degree=4, threshold=4):
        for site, stage in itertools.product(NAMES[:9], STAGES):
            world = World(9, length=5)
            assert exact(world, world.run(silent_from={SiteId(site): stage}))


@GRAPHS
def test_a_vector_that_comes_too_late_has_no_self_seed_opened(graph):
    with on(graph):
        world = World(9)
        late = world.names[2]
        world.run(until=Phase.SURVIVORS, silent_from={late: Phase.MASKED_UPDATE})
        world.members[late].instruct(_send_masked(world, late))
        (masked,) = world.members[late].uploads
        with pytest.raises(PeerError, match="came while"):
            world.deliver(late, masked)
        outcome = finish(world)
        assert isinstance(outcome, Commit)
        assert late not in outcome.contributors
        for member in world.members.values():
            for answer in member.sent:
                if isinstance(answer, RevealedShares):
                    assert late not in answer.self_seeds


def _send_masked(world: World, site: SiteId) -> object:
    """What a site was told when it was still awaited: the same world, one stage earlier."""
    earlier = World(9)
    earlier.run(until=Phase.MASKED_UPDATE)
    return earlier.coordinator.instruction_for(site)


# --- what shows on the wire ---


@GRAPHS
@pytest.mark.parametrize("groups", [1, 2])
def test_with_the_same_keys_other_data_change_not_one_byte_but_the_masked_words(graph, groups):
    """Every answer as protobuf bytes; of the masked words, their number is the same."""
    if graph == "ring" and groups == 2:
        pytest.skip("groups are for the complete graph")
    with on(graph):
        seen = []
        for fill in (0, 1, 2**31):
            vectors = {SiteId(n): np.full(20, fill, np.uint32) for n in NAMES[:9]}
            world = World(9, length=20, vectors=vectors, groups=groups)
            assert isinstance(world.run(), Commit)
            seen.append(
                {
                    site: ([answer_to_bytes(a) for a in m.sent], [u.shape for u in m.uploads])
                    for site, m in world.members.items()
                }
            )
        assert seen[0] == seen[1] == seen[2]
        assert all(len(answers) == 6 for answers, _ in seen[0].values())


def test_answers_of_two_sessions_are_of_equal_length_on_the_wire():
    lengths = []
    for label in ("one", "two"):
        world = World(5, label=label)
        world.run(silent_from={world.names[4]: Phase.MASKED_UPDATE})
        lengths.append([[len(answer_to_bytes(a)) for a in m.sent] for m in world.members.values()])
    assert lengths[0] == lengths[1]
