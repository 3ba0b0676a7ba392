"""The coordinator's machine: when it goes on, what it refuses, what it keeps."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
from in_memory_round import ROUND, World, another_attempt, arrived

from primia.errors import PeerError
from primia.protocol.coordinator import CoordinatorRound
from primia.protocol.events import (
    Abort,
    Answered,
    Commit,
    Phase,
    Progress,
    SiteLost,
    Tell,
    Tick,
    UpdateArrived,
)
from primia.protocol.messages import (
    AdvertiseKeys,
    Closed,
    Declined,
    Outcome,
    Ready,
    Reveal,
    RevealedShares,
    SealedShares,
    SendMasked,
    ShareSecrets,
    SignSurvivors,
    SurvivorSignature,
    Train,
)
from primia.secagg.packing import pack

PHASES = [
    Phase.TRAINING,
    Phase.KEYS,
    Phase.SHARES,
    Phase.MASKED_UPDATE,
    Phase.SURVIVORS,
    Phase.UNMASKING,
]


def state_of(coordinator: CoordinatorRound) -> tuple:
    return (
        coordinator.phase,
        coordinator.answered,
        coordinator.waiting_for,
        coordinator.dropped,
        coordinator.next_deadline,
        [total.tobytes() for total in coordinator._sums],
        tuple(coordinator._taken),
    )


def refuse(world: World, event: object, match: str) -> None:
    """The event raises PeerError and changes nothing."""
    before = state_of(world.coordinator)
    with pytest.raises(PeerError, match=match):
        world.coordinator.handle(event, world.now)
    assert state_of(world.coordinator) == before


def ready(world: World, *which: int) -> list:
    out = []
    for i in which:
        out += world.coordinator.handle(Answered(world.names[i], Ready(ROUND)), world.now)
    return out


def answer_of(world: World, i: int) -> object:
    """What member i answers to its open instruction (a message, or its masked vector).

    Whom it masked among goes to the coordinator first, as on the wire.
    """
    site = world.names[i]
    *before, last = world.members[site].instruct(world.coordinator.instruction_for(site))
    for answer in before:
        world.deliver(site, answer)
    return last


def event_of(world: World, i: int) -> object:
    what = answer_of(world, i)
    return world.event(world.names[i], what)


# --- training policy ---


def test_starting_tells_every_invited_site_to_train():
    world = World(4)
    assert world.coordinator.start() == [Tell(s, Train(ROUND)) for s in world.names]


def test_training_goes_on_at_once_when_all_are_ready():
    world = World(4)
    commands = ready(world, 0, 1, 2, 3)
    assert commands == [Tell(s, AdvertiseKeys(ROUND, world.names)) for s in world.names]


def test_training_waits_the_grace_time_once_quorum_is_ready():
    world = World(5)
    world.now = 100.0
    assert ready(world, 0, 1, 2) == []
    assert world.coordinator.next_deadline == 110.0
    world.now = 109.9
    assert world.coordinator.handle(Tick(), world.now) == []
    assert ready(world, 3) == []
    assert world.coordinator.next_deadline == 110.0
    world.now = 110.0
    commands = world.coordinator.handle(Tick(), world.now)
    assert [c.site for c in commands] == list(world.names[:4])
    assert [(d.site, d.phase) for d in world.coordinator.dropped] == [
        (world.names[4], Phase.TRAINING)
    ]


def test_quorum_just_before_the_deadline_does_not_wait_past_it():
    world = World(4)
    world.now = 995.0
    ready(world, 0, 1, 2)
    assert world.coordinator.next_deadline == 1000.0


def test_below_quorum_at_the_deadline_aborts_and_names_the_missing():
    world = World(4)
    ready(world, 0, 2)
    assert world.coordinator.next_deadline == 1000.0
    world.now = 1000.0
    abort, *tells = world.coordinator.handle(Tick(), world.now)
    assert abort.missing == (world.names[1], world.names[3])
    assert "birch, dogwood" in abort.reason
    assert [t.site for t in tells] == list(world.names)
    assert all(
        isinstance(t.instruction, Closed) and t.instruction.outcome is Outcome.ABORTED
        for t in tells
    )
    assert world.coordinator.next_deadline is None


def test_a_declined_site_is_not_waited_for():
    world = World(4)
    ready(world, 0, 1, 2)
    answer = Answered(world.names[3], Declined(ROUND, "disk full"))
    commands = world.coordinator.handle(answer, 0.0)
    assert [c.site for c in commands] == list(world.names[:3])
    assert "disk full" in world.coordinator.dropped[0].reason


def test_too_many_declined_abort_at_once():
    world = World(3)
    answer = Answered(world.names[0], Declined(ROUND, "budget is spent"))
    abort, *_ = world.coordinator.handle(answer, 0.0)
    assert isinstance(abort, Abort)
    assert abort.missing == world.names
    assert world.coordinator.phase is Phase.ABORTED


# --- later stages ---


@pytest.mark.parametrize("phase", PHASES[1:])
def test_progress_keeps_a_stage_open_and_silence_ends_it(phase):
    world = World(3)
    world.run(until=phase)
    timeout = world.terms.stage_timeout_s
    assert world.coordinator.next_deadline == world.now + timeout
    world.now += timeout - 1
    world.coordinator.handle(Progress(world.names[0]), world.now)
    assert world.coordinator.next_deadline == world.now + timeout
    world.now += timeout - 1
    assert world.coordinator.handle(Tick(), world.now) == []
    world.now += 1
    abort, *_ = world.coordinator.handle(Tick(), world.now)
    assert isinstance(abort, Abort)
    assert abort.missing == world.names


def test_progress_of_a_site_that_is_not_awaited_keeps_nothing_open():
    world = World(3)
    world.run(until=Phase.MASKED_UPDATE)
    world.coordinator.handle(event_of(world, 0), world.now)
    before = world.coordinator.next_deadline
    world.coordinator.handle(Progress(world.names[0]), world.now + 5)
    world.coordinator.handle(Progress("stranger"), world.now + 5)
    assert world.coordinator.next_deadline == before


def test_a_trickle_of_progress_cannot_hold_a_stage_for_ever():
    world = World(3)
    world.run(until=Phase.MASKED_UPDATE)
    began = world.now
    commands: list = []
    while not commands:
        world.now += 10
        commands = world.coordinator.handle(Progress(world.names[0]), world.now)
    assert isinstance(commands[0], Abort)
    assert world.now - began == world.terms.deadline_s


@pytest.mark.parametrize("phase", PHASES)
def test_a_repeat_is_accepted_silently_even_after_its_phase(phase):
    world = World(3)
    if phase is Phase.TRAINING:
        world.coordinator.start()
    else:
        world.run(until=phase)
    event = event_of(world, 0)
    world.coordinator.handle(event, world.now)
    before = state_of(world.coordinator)
    assert world.coordinator.handle(event, world.now + 5) == []
    assert state_of(world.coordinator) == before
    for i in (1, 2):
        world.coordinator.handle(event_of(world, i), world.now)
    before = state_of(world.coordinator)
    assert world.coordinator.handle(event, world.now) == []
    assert state_of(world.coordinator) == before


def spoiled(event: object) -> object:
    """The same kind of answer from the same site, with one thing changed."""
    if isinstance(event, UpdateArrived):
        return arrived(event.site, bytes([event.packed[0] ^ 1, *event.packed[1:]]))
    answer = event.answer
    match answer:
        case SealedShares() | RevealedShares() | SurvivorSignature():
            return Answered(event.site, replace(answer, session=bytes(32)))
        case _:
            return Answered(event.site, replace(answer, signature=b"other"))


@pytest.mark.parametrize("phase", PHASES[1:])
def test_a_second_different_answer_is_refused_and_the_first_stands(phase):
    world = World(4)
    world.run(until=phase)
    event = event_of(world, 0)
    world.coordinator.handle(event, world.now)
    refuse(world, spoiled(event), "second, different")


@pytest.mark.parametrize("phase", PHASES)
def test_answers_of_strangers_other_rounds_and_other_phases_are_refused(phase):
    world = World(4)
    if phase is Phase.TRAINING:
        world.coordinator.start()
    else:
        world.run(until=phase)
    refuse(world, replace(event_of(world, 0), site="stranger"), "stranger")
    other = another_attempt(ROUND)
    refuse(world, Answered(world.names[0], Ready(other)), "another round")
    wrong = RevealedShares(ROUND, bytes(32), {}, {})
    if phase is Phase.UNMASKING:
        refuse(world, Answered(world.names[0], wrong), "another session")
    else:
        refuse(world, Answered(world.names[0], wrong), "came while")
    if phase is not Phase.MASKED_UPDATE:
        packed = bytes(world.layout.wire_bytes)
        if phase not in (Phase.SURVIVORS, Phase.UNMASKING):
            refuse(world, arrived(world.names[0], packed), "came while")


@pytest.mark.parametrize("phase", [Phase.KEYS, Phase.SURVIVORS])
def test_a_bad_signature_counts_as_no_answer_and_a_good_one_may_follow(phase):
    world = World(4)
    world.run(until=phase)
    good = event_of(world, 0)
    forged = replace(good, answer=replace(good.answer, signature=bytes(64)))
    refuse(world, forged, "signature does not hold")
    world.coordinator.handle(good, world.now)
    assert world.coordinator.answered == (world.names[0],)


def test_keys_signed_by_another_site_are_refused():
    world = World(4)
    world.run(until=Phase.KEYS)
    good = event_of(world, 0)
    refuse(world, Answered(world.names[1], good.answer), "malformed")
    renamed = replace(good.answer, site=world.names[1])
    refuse(world, Answered(world.names[1], renamed), "signature does not hold")


@pytest.mark.parametrize("field", ["mask_key", "seal_key"])
def test_keys_of_small_order_are_refused_even_when_signed(field):
    world = World(3)
    world.run(until=Phase.KEYS)
    good = event_of(world, 0)
    bad = replace(good.answer, **{field: bytes(32)})
    refuse(world, Answered(world.names[0], bad), "small order")


def test_sealed_shares_must_be_one_for_each_other_site():
    world = World(4)
    world.run(until=Phase.SHARES)
    good = event_of(world, 0)
    sealed = dict(good.answer.sealed)
    first = next(iter(sealed))
    for changed in (
        {k: v for k, v in sealed.items() if k != first},
        {**sealed, world.names[0]: sealed[first]},
        {**sealed, first: sealed[first] + b"x"},
    ):
        bad = replace(good.answer, sealed=changed)
        refuse(world, Answered(world.names[0], bad), "one for each neighbour")


@pytest.mark.parametrize("excess", [-1, 1])
def test_an_upload_of_another_length_is_refused(excess):
    world = World(3)
    world.run(until=Phase.MASKED_UPDATE)
    packed = bytes(world.layout.wire_bytes + excess)
    refuse(world, arrived(world.names[0], packed), "bytes, need")


def test_revealed_shares_of_both_kinds_or_the_wrong_kind_are_refused():
    world = World(4)
    world.run(until=Phase.UNMASKING, silent_from={world.names[3]: Phase.MASKED_UPDATE})
    good = event_of(world, 0)
    seeds, masks = dict(good.answer.self_seeds), dict(good.answer.mask_keys)
    lost, share = next(iter(masks.items()))
    for changed in (
        {"self_seeds": {**seeds, lost: share}},
        {"mask_keys": {**masks, world.names[1]: share}},
        {"self_seeds": {}, "mask_keys": {**masks}},
    ):
        bad = replace(good.answer, **changed)
        refuse(world, Answered(world.names[0], bad), "one kind for each peer")
    short = replace(good.answer, mask_keys={lost: share[:-1]})
    refuse(world, Answered(world.names[0], short), "malformed")


def test_a_late_answer_of_a_dropped_site_is_refused():
    world = World(4)
    world.run(until=Phase.SHARES, silent_from={world.names[3]: Phase.KEYS})
    refuse(world, Answered(world.names[3], Ready(another_attempt(ROUND))), "another round")
    site = world.names[3]
    late = world.members[site].instruct(AdvertiseKeys(ROUND, world.names))[0]
    refuse(world, Answered(site, late), "came while")


# --- sites struck from the roster ---


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("answered_first", [False, True])
def test_a_struck_site_is_not_waited_for_and_the_sum_stays_exact(phase, answered_first):
    world = World(5)
    struck = world.names[4]
    if phase is Phase.TRAINING:
        pending = world.coordinator.start()
    else:
        world.run(until=phase)
        pending = []
    if answered_first:
        pending = world.coordinator.handle(event_of(world, 4), world.now)
    pending = world.coordinator.handle(SiteLost(struck), world.now)
    assert struck not in world.coordinator.waiting_for
    while not any(isinstance(c, Commit | Abort) for c in pending):
        assert struck not in world.coordinator.waiting_for
        site = world.coordinator.waiting_for[0]
        pending = world.coordinator.handle(event_of(world, world.names.index(site)), world.now)
    commit = pending[0]
    assert isinstance(commit, Commit)
    in_sum = phase in (Phase.SURVIVORS, Phase.UNMASKING) or (
        phase is Phase.MASKED_UPDATE and answered_first
    )
    assert commit.contributors == (world.names if in_sum else world.names[:4])
    assert np.array_equal(commit.totals[0], world.plain_sum(commit.contributors))


def test_a_site_may_decline_at_a_later_stage_and_the_round_goes_on():
    world = World(5)
    world.run(until=Phase.SHARES)
    declined = Answered(world.names[2], Declined(ROUND, "restarted, holds no keys"))
    assert world.coordinator.handle(declined, world.now) == []
    assert world.names[2] not in world.coordinator.waiting_for


# --- wrong shares ---


def reveal_all(world: World, spoil: dict[int, str]) -> list:
    """Answer the Reveal; member i in `spoil` gives a wrong share of its named kind."""
    commands: list = []
    for i, site in enumerate(world.names):
        if world.coordinator.instruction_for(site) is None or commands:
            continue
        answer = answer_of(world, i)
        if i in spoil:
            shares = dict(getattr(answer, spoil[i]))
            owner = min(shares)
            shares[owner] = bytes(32) + b"\x05"
            answer = replace(answer, **{spoil[i]: shares})
        commands += world.coordinator.handle(Answered(site, answer), world.now)
    return commands


def test_one_wrong_share_is_named_and_the_sum_is_right():
    world = World(4)
    world.run(until=Phase.UNMASKING)
    commands = reveal_all(world, {0: "self_seeds"})
    assert isinstance(commands[0], Commit)
    assert np.array_equal(commands[0].totals[0], world.plain_sum(world.names))
    assert [(d.site, d.reason) for d in world.coordinator.dropped] == [
        (world.names[0], "revealed a wrong share")
    ]


@pytest.mark.parametrize("kind", ["self_seeds", "mask_keys"])
def test_a_wrong_share_without_a_spare_aborts_instead_of_a_wrong_sum(kind):
    world = World(4)
    world.run(until=Phase.UNMASKING, silent_from={world.names[3]: Phase.MASKED_UPDATE})
    commands = reveal_all(world, {1: kind})
    assert isinstance(commands[0], Abort)
    assert ("self seed of alder" if kind == "self_seeds" else "mask key of dogwood") in (
        commands[0].reason
    )


def test_a_wrong_share_waits_for_a_spare_only_until_the_stage_is_silent():
    world = World(4)
    world.run(until=Phase.UNMASKING)
    for i in range(3):
        answer = answer_of(world, i)
        if i == 0:
            wrong = {**answer.self_seeds, world.names[0]: bytes(33)}
            answer = replace(answer, self_seeds=wrong)
        assert world.coordinator.handle(Answered(world.names[i], answer), world.now) == []
    world.now += world.terms.stage_timeout_s
    abort, *_ = world.coordinator.handle(Tick(), world.now)
    assert isinstance(abort, Abort)
    assert abort.missing == (world.names[3],)


# --- what it keeps and shows ---


def test_the_coordinator_keeps_no_vector_and_its_sum_is_its_own():
    world = World(4)
    world.run(until=Phase.MASKED_UPDATE)
    packed = np.frombuffer(pack(answer_of(world, 0), world.layout), np.uint8)
    gone, (the_sum,) = weakref.ref(packed), world.coordinator._sums
    world.coordinator.handle(arrived(world.names[0], memoryview(packed)), world.now)
    assert world.coordinator._sums[0] is the_sum  # added in place: memory does not grow with n
    kept = the_sum.copy()
    del packed
    assert gone() is None
    assert the_sum.any()
    assert np.array_equal(world.coordinator._sums[0], kept)


def test_the_open_instruction_can_be_asked_for_again_until_it_is_answered():
    world = World(4)
    kinds = [Train, AdvertiseKeys, ShareSecrets, SendMasked, SignSurvivors, Reveal]
    for phase, kind in zip(PHASES, kinds, strict=True):
        world = World(4)
        if phase is Phase.TRAINING:
            world.coordinator.start()
        else:
            world.run(until=phase)
        first = world.coordinator.instruction_for(world.names[0])
        assert type(first) is kind
        assert world.coordinator.instruction_for(world.names[0]) == first
        world.coordinator.handle(event_of(world, 0), world.now)
        assert world.coordinator.instruction_for(world.names[0]) is None
    assert world.coordinator.instruction_for("stranger") is None


@pytest.mark.parametrize(
    "change",
    [
        {"quorum": 2},
        {"quorum": 5},
        {"invited": ("alder", "alder", "birch", "cedar")},
        {"groups": 0},
        {"groups": 2},
        {"stage_timeout_s": 0.0},
    ],
)
def test_terms_that_cannot_work_are_refused(change):
    with pytest.raises(ValueError, match=r"quorum|invited|above 0|groups"):
        replace(World(4).terms, **change)
