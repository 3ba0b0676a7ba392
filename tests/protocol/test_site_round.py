"""A site's machine on its own: what it does in order, what it repeats, what it keeps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from in_memory_round import ROUND, World, another_attempt, vector_of

from primia.errors import PeerError, PolicyRefused
from primia.protocol.events import Phase
from primia.protocol.messages import (
    AdvertiseKeys,
    Closed,
    Declined,
    KeyAdvert,
    Masked,
    Outcome,
    Ready,
    RevealedShares,
    SealedShares,
    SendMasked,
    SurvivorSignature,
    Train,
)
from primia.protocol.site import PromisedElsewhere, SitePhase, SiteRound
from primia.protocol.site_events import (
    CannotTakePart,
    Forget,
    KeysMade,
    Remember,
    Send,
    SharesRevealed,
    SurvivorsSigned,
    TrainLocally,
    UpdateReady,
    Upload,
)
from primia.secagg.sealing import SharePair

PHASES = [Phase.KEYS, Phase.SHARES, Phase.MASKED_UPDATE, Phase.SURVIVORS, Phase.UNMASKING]


def at(phase: Phase, n: int = 4) -> tuple[World, SiteRound, object]:
    """A world whose coordinator just entered `phase`, the first site, and its instruction."""
    world = World(n)
    world.run(until=phase)
    site = world.names[0]
    return world, world.members[site].machine, world.coordinator.instruction_for(site)


def closed() -> Closed:
    return Closed(ROUND, Outcome.COMMITTED, "")


def test_each_step_remembers_before_it_sends():
    expected = [
        [Remember, Send],
        [Send],
        [Send, Upload],
        [Remember, Send],
        [Remember, Send],
    ]
    records, answers = [], []
    for phase, kinds in zip(PHASES, expected, strict=True):
        _, machine, instruction = at(phase)
        commands = machine.handle(instruction)
        assert [type(c) for c in commands] == kinds
        records += [type(c.record) for c in commands if isinstance(c, Remember)]
        answers += [type(c.answer) for c in commands if isinstance(c, Send)]
    assert records == [KeysMade, SurvivorsSigned, SharesRevealed]
    assert answers == [KeyAdvert, SealedShares, Masked, SurvivorSignature, RevealedShares]


def test_train_is_worked_on_once_and_answered_from_then_on():
    machine = World(3).members["alder"].machine
    assert machine.handle(Train(ROUND)) == [TrainLocally(ROUND)]
    assert machine.handle(Train(ROUND)) == []
    ready = [Send(Ready(ROUND))]
    assert machine.handle(UpdateReady(vector_of("alder"))) == ready
    assert machine.handle(Train(ROUND)) == ready


def test_a_restarted_worker_may_hand_in_the_stored_update_at_once():
    machine = World(3).members["alder"].machine
    assert machine.handle(UpdateReady(vector_of("alder"))) == [Send(Ready(ROUND))]
    assert machine.phase is SitePhase.READY


def test_a_site_that_cannot_take_part_says_so_again_when_asked_again():
    machine = World(3).members["alder"].machine
    machine.handle(Train(ROUND))
    declined = [Send(Declined(ROUND, "budget is spent"))]
    assert machine.handle(CannotTakePart("budget is spent")) == declined
    assert machine.handle(Train(ROUND)) == declined
    with pytest.raises(PeerError, match="declined"):
        machine.handle(AdvertiseKeys(ROUND, ("alder", "birch", "cedar")))


@pytest.mark.parametrize("phase", PHASES)
def test_a_repeated_instruction_gets_the_identical_answer_without_new_randomness(phase):
    _, machine, instruction = at(phase)
    first = machine.handle(instruction)
    machine._entropy = None  # any use would fail
    machine._sign = None
    assert machine.handle(instruction) is first


def test_every_earlier_instruction_is_still_answered_when_repeated_later():
    world = World(3)
    seen = []

    def note(site, instruction):
        if site == world.names[0]:
            seen.append(instruction)
        return instruction

    world.run(tamper=note)
    member = world.members[world.names[0]]
    sent, uploads = list(member.sent), [u.copy() for u in member.uploads]
    member.sent.clear()
    member.uploads.clear()
    for instruction in seen:
        member.instruct(instruction)
    assert member.sent == sent
    assert np.array_equal(member.uploads[0], uploads[0])


@pytest.mark.parametrize("phase", PHASES)
def test_an_instruction_out_of_order_is_refused_and_changes_nothing(phase):
    _, machine, instruction = at(phase)
    for other in PHASES:
        if PHASES.index(other) > PHASES.index(phase):
            _, _, early = at(other)
            before = machine.phase
            with pytest.raises(PeerError, match="came while"):
                machine.handle(early)
            assert machine.phase is before
    machine.handle(instruction)


@pytest.mark.parametrize("phase", PHASES)
def test_an_instruction_for_another_round_changes_nothing(phase):
    _, machine, instruction = at(phase)
    for change in (
        another_attempt(ROUND),
        dataclasses.replace(ROUND, model="c" * 64),
        dataclasses.replace(ROUND, plan="c" * 64),
    ):
        with pytest.raises(PeerError, match="another round"):
            machine.handle(dataclasses.replace(instruction, round=change))
    machine.handle(instruction)


@pytest.mark.parametrize("phase", PHASES[1:])
def test_closed_ends_the_round_at_any_stage_and_nothing_secret_is_left(phase):
    _, machine, instruction = at(phase)
    machine.handle(instruction)
    assert machine.handle(closed()) == [Forget()]
    assert machine.handle(closed()) == [Forget()]
    assert machine._secrets is None
    assert machine._vector is None
    with pytest.raises(PeerError, match="came while"):
        machine.handle(instruction)


def test_after_revealing_no_secret_is_left():
    _, machine, instruction = at(Phase.UNMASKING)
    machine.handle(instruction)
    assert machine._secrets is None


def test_keys_are_never_made_twice_for_an_attempt_or_a_lower_one():
    world = World(3)
    for last in (ROUND.attempt, ROUND.attempt + 1):
        member = world.member(world.names[0], last_attempt=last)
        member.instruct(Train(ROUND))
        with pytest.raises(PolicyRefused, match="not above"):
            member.instruct(AdvertiseKeys(ROUND, world.names))
    member = world.member(world.names[0], last_attempt=ROUND.attempt - 1)
    member.instruct(Train(ROUND))
    assert isinstance(member.instruct(AdvertiseKeys(ROUND, world.names))[0], KeyAdvert)


def test_an_update_that_was_signed_for_one_sum_joins_no_sum_with_other_sites():
    world = World(4)
    first = world.names[0]
    world.members[first] = world.member(first, signed_before=world.names)
    world.run(until=Phase.SURVIVORS, silent_from={world.names[3]: Phase.MASKED_UPDATE})
    with pytest.raises(PromisedElsewhere, match="difference"):
        world.members[first].instruct(world.coordinator.instruction_for(first))

    more = World(4)
    more.members[first] = more.member(first, signed_before=more.names[:3])
    more.run(until=Phase.MASKED_UPDATE)
    with pytest.raises(PromisedElsewhere, match="only those"):
        more.members[first].instruct(more.coordinator.instruction_for(first))

    without = World(4)
    without.members[first] = without.member(first, signed_before=without.names[1:])
    without.run(until=Phase.KEYS, silent_from={without.names[3]: Phase.TRAINING})
    with pytest.raises(PolicyRefused, match="other sites already"):
        without.members[first].instruct(without.coordinator.instruction_for(first))


def test_an_update_that_was_signed_for_one_sum_may_join_the_same_sum_again():
    world = World(3)
    for site in world.names:
        world.members[site] = world.member(site, signed_before=world.names)
    outcome = world.run()
    assert np.array_equal(outcome.totals[0], world.plain_sum(world.names))


@pytest.mark.parametrize(
    "vector", [np.zeros(4, np.int32), np.zeros((2, 2), np.uint32), np.frombuffer(b"1234", "<u4")]
)
def test_an_update_that_cannot_be_masked_in_place_is_refused(vector):
    with pytest.raises(ValueError, match="vector"):
        World(3).members["alder"].machine.handle(UpdateReady(vector))


def test_the_floor_of_three_and_membership_cannot_be_configured_away():
    world = World(3)
    with pytest.raises(ValueError, match="at least 3"):
        world.member(world.names[0], floor=2)
    with pytest.raises(ValueError, match="roster"):
        world.member(world.names[0], roster=world.names[1:])


def test_a_short_read_of_entropy_never_becomes_a_key():
    world = World(3)
    member = world.member(world.names[0], entropy=lambda n: b"\x00" * (n - 1))
    member.instruct(Train(ROUND))
    with pytest.raises(ValueError, match="entropy"):
        member.instruct(AdvertiseKeys(ROUND, world.names))


def test_no_text_form_of_any_state_object_shows_a_secret():
    world = World(4)
    shown: list[str] = []

    def note(site, instruction):
        shown.append(repr(instruction))
        return instruction

    secrets: set[bytes] = set()
    world.run(until=Phase.UNMASKING, silent_from={world.names[3]: Phase.MASKED_UPDATE}, tamper=note)
    for member in world.members.values():
        held = member.machine._secrets
        secrets |= {held.mask.private, held.seal.private, held.self_seed}
        for pair in held.held.values():
            assert isinstance(pair, SharePair)
            secrets |= {pair.self_seed, pair.mask_key}
            shown.append(repr(pair))
        shown += [repr(held), repr(held.mask), repr(held.seal), repr(member.machine)]
    for site in world.names[:3]:
        machine = world.members[site].machine
        commands = machine.handle(world.coordinator.instruction_for(site))
        shown += [repr(commands), repr(machine)]
    shown += [repr(world.coordinator), repr(world.terms)]
    shown += [repr(UpdateReady(vector_of("alder"))), repr(Upload(vector_of("alder")))]
    text = "".join(shown)
    assert len(secrets) > 12
    for secret in secrets:
        assert repr(secret)[2:-1] not in text
        assert secret.hex() not in text
    assert repr(vector_of("alder"))[6:20] not in text


def test_sealed_shares_are_for_the_peers_of_this_site_only():
    world, _, instruction = at(Phase.MASKED_UPDATE)
    assert isinstance(instruction, SendMasked)
    assert set(instruction.sealed) == set(world.names[1:])
