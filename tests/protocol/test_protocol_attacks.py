"""A lying coordinator, a lying peer: each claim of docs/protocol.md, attacked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory_round import NAMES, ROUND, World, another_attempt

from primia.errors import PeerError, PolicyRefused
from primia.protocol.events import Answered, Phase
from primia.protocol.messages import (
    AdvertiseKeys,
    Closed,
    KeyAdvert,
    Outcome,
    Reveal,
    RevealedShares,
    SendMasked,
    ShareSecrets,
    SignSurvivors,
    SurvivorSignature,
    Train,
)
from primia.protocol.session import advert_statement, survivor_statement
from primia.protocol.site import SitePhase
from primia.protocol.site_events import SharesRevealed
from primia.secagg.keys import agree, key_pair, pair_mask_key
from primia.secagg.layout import Layout, Vector
from primia.secagg.masks import apply_masks, pair_mask
from primia.types import SiteId


def at(phase: Phase, n: int = 4, **terms: object) -> tuple[World, object]:
    world = World(n, **terms)
    world.run(until=phase)
    return world, world.coordinator.instruction_for(world.names[0])


def refused_for_good(world: World, instruction: object, error: type, match: str) -> None:
    """The first site raises, sends nothing, and has no secret left to be asked for again."""
    member = world.members[world.names[0]]
    sent = len(member.sent)
    with pytest.raises(error, match=match):
        member.instruct(instruction)
    assert len(member.sent) == sent
    assert member.machine.phase is SitePhase.REFUSED
    assert member.machine._secrets is None


# --- cohort ---


@pytest.mark.parametrize(
    ("cohort", "error", "match"),
    [
        (("alder", "birch"), PolicyRefused, "2 sites"),
        (("alder",), PolicyRefused, "1 sites"),
        (("birch", "cedar", "dogwood"), PeerError, "this site is not in it"),
        (("alder", "birch", "mallory"), PeerError, "mallory"),
        (("alder", "birch", "birch", "cedar"), PeerError, "twice"),
        (("birch", "alder", "cedar"), PeerError, "not sorted"),
    ],
)
def test_a_cohort_that_breaks_the_sites_own_rules_is_refused(cohort, error, match):
    world, _ = at(Phase.KEYS)
    refused_for_good(world, AdvertiseKeys(ROUND, cohort), error, match)


def test_a_site_with_a_higher_floor_refuses_a_cohort_of_three():
    world, _ = at(Phase.KEYS, floor=4)
    refused_for_good(world, AdvertiseKeys(ROUND, world.names[:3]), PolicyRefused, "ask for 4")


def test_a_second_cohort_in_one_attempt_is_refused():
    world, first = at(Phase.KEYS)
    world.members[world.names[0]].instruct(first)
    second = AdvertiseKeys(ROUND, world.names[:3])
    refused_for_good(world, second, PeerError, "second, different")


# --- keys ---


def replaced(instruction: ShareSecrets, advert: KeyAdvert) -> ShareSecrets:
    adverts = tuple(advert if a.site == advert.site else a for a in instruction.adverts)
    return replace(instruction, adverts=adverts)


@pytest.mark.parametrize("field", ["mask_key", "seal_key", "seed_commitment"])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_swapped_key_is_refused(field, victim):
    world, instruction = at(Phase.SHARES)
    advert = instruction.adverts[victim]
    swapped = replace(advert, **{field: key_pair(b"\x09" * 32).public})
    match = "own keys" if victim == 0 else "birch"
    refused_for_good(world, replaced(instruction, swapped), PeerError, match)


def test_keys_signed_by_a_roster_member_in_anothers_name_are_refused():
    world, instruction = at(Phase.SHARES)
    advert = instruction.adverts[1]
    mine = replace(advert, mask_key=key_pair(b"\x09" * 32).public)
    signature = world.authority.sign_as(SiteId("cedar"))(advert_statement(mine, world.names))
    refused_for_good(
        world, replaced(instruction, replace(mine, signature=signature)), PeerError, "birch"
    )


def small_order_points() -> list[str]:
    path = Path(__file__).parent.parent / "vectors" / "secagg.json"
    return json.loads(path.read_text())["small_order_points"]


@pytest.mark.parametrize("point", small_order_points())
@pytest.mark.parametrize("field", ["mask_key", "seal_key"])
def test_a_colluding_peers_key_of_small_order_is_refused_even_when_signed(field, point):
    world, instruction = at(Phase.SHARES)
    bad = replace(instruction.adverts[1], **{field: bytes.fromhex(point)})
    signature = world.authority.sign_as(bad.site)(advert_statement(bad, world.names))
    refused_for_good(
        world, replaced(instruction, replace(bad, signature=signature)), PeerError, "small order"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"model": "c" * 64},
        {"plan": "c" * 64},
        {"number": 2},
        {"attempt": ROUND.attempt + 1},
    ],
)
def test_keys_signed_for_another_round_model_or_plan_are_refused(change):
    """Once as they were signed, once with the name of this round written over it."""
    elsewhere = replace(ROUND, **change)
    other = World(4, round=elsewhere, label="elsewhere")
    other.run(until=Phase.SHARES)
    foreign = other.coordinator.instruction_for(other.names[0]).adverts[1]
    for advert in (foreign, replace(foreign, round=ROUND)):
        world, instruction = at(Phase.SHARES)
        refused_for_good(world, replaced(instruction, advert), PeerError, "birch")


def test_keys_signed_for_another_cohort_are_refused():
    other = World(5, label="elsewhere")
    other.run(until=Phase.SHARES)
    foreign = other.coordinator.instruction_for(other.names[0]).adverts[1]
    world, instruction = at(Phase.SHARES)
    refused_for_good(world, replaced(instruction, foreign), PeerError, "cohort")


def test_a_key_list_far_below_the_cohort_is_refused():
    world, instruction = at(Phase.SHARES, 7)  # t(7) = 5
    fewer = replace(instruction, adverts=instruction.adverts[:4])
    refused_for_good(world, fewer, PolicyRefused, "ask for 5")


def test_a_key_list_with_one_site_twice_is_refused():
    world, instruction = at(Phase.SHARES)
    twice = replace(instruction, adverts=(*instruction.adverts, instruction.adverts[3]))
    refused_for_good(world, twice, PeerError, "twice")


def test_one_key_in_two_names_is_refused():
    world, instruction = at(Phase.SHARES)
    copy = replace(instruction.adverts[1], mask_key=instruction.adverts[0].mask_key)
    signature = world.authority.sign_as(copy.site)(advert_statement(copy, world.names))
    refused_for_good(
        world, replaced(instruction, replace(copy, signature=signature)), PeerError, "the same"
    )


# --- sealed shares ---


def only(instruction: SendMasked, *among: str) -> SendMasked:
    """The same instruction with these mask partners alone."""
    sealed = {k: v for k, v in instruction.sealed.items() if k in among}
    return replace(instruction, among=tuple(SiteId(s) for s in among), sealed=sealed)


def test_shares_sealed_for_another_site_or_by_another_site_do_not_open():
    world, instruction = at(Phase.MASKED_UPDATE)
    for_birch = world.coordinator.instruction_for(world.names[1])
    redirected = {**instruction.sealed, "cedar": for_birch.sealed["cedar"]}
    refused_for_good(world, replace(instruction, sealed=redirected), PeerError, "do not open")
    world, instruction = at(Phase.MASKED_UPDATE)
    mixed = {**instruction.sealed, "cedar": instruction.sealed["dogwood"]}
    refused_for_good(world, replace(instruction, sealed=mixed), PeerError, "do not open")


def test_shares_of_another_attempt_do_not_open():
    old, instruction_then = at(Phase.MASKED_UPDATE, label="then")
    del old
    world, instruction = at(Phase.MASKED_UPDATE, label="now")
    replayed = replace(instruction, sealed=instruction_then.sealed)
    refused_for_good(world, replayed, PeerError, "do not open")


def test_an_instruction_with_another_session_is_refused():
    for phase in (Phase.MASKED_UPDATE, Phase.SURVIVORS, Phase.UNMASKING):
        world, instruction = at(phase)
        wrong = replace(instruction, session=bytes(32))
        refused_for_good(world, wrong, PeerError, "another session")


def test_too_few_mask_partners_and_strangers_among_them_are_refused():
    world, instruction = at(Phase.MASKED_UPDATE)
    refused_for_good(world, only(instruction, "alder", "birch"), PolicyRefused, "2 sites")
    world, instruction = at(Phase.MASKED_UPDATE)
    among = tuple(sorted([*instruction.among, SiteId("mallory")]))
    refused_for_good(world, replace(instruction, among=among), PeerError, "mallory")
    world, instruction = at(Phase.MASKED_UPDATE)
    mine = {**instruction.sealed, "alder": instruction.sealed["birch"]}
    refused_for_good(world, replace(instruction, sealed=mine), PeerError, "each neighbour")


def test_sites_told_different_mask_partners_open_nothing_even_for_one_survivor_list():
    """The signed statement holds each site's own partners, so the signatures do not fit."""

    def tamper(site, instruction):
        if site == "alder" and isinstance(instruction, SendMasked):
            return only(instruction, *(s for s in instruction.among if s != "elm"))
        return instruction

    world = World(5)
    survivors = world.names[:4]
    world.minds_no_signature()  # for the coordinator lies
    world.run(
        tamper=tamper, silent_from={world.names[4]: Phase.MASKED_UPDATE}, until=Phase.SURVIVORS
    )
    session = world.coordinator.session
    instruction = SignSurvivors(ROUND, session, survivors)
    signatures = {s: world.members[s].instruct(instruction)[0].signature for s in survivors}
    for site in survivors:
        with pytest.raises(PeerError, match="did not sign"):
            world.members[site].instruct(world.reveal(site, signatures))
        assert not any(isinstance(a, RevealedShares) for a in world.members[site].sent)


# --- survivors ---


@pytest.mark.parametrize(
    ("survivors", "error", "match"),
    [
        (("alder", "birch"), PolicyRefused, "2 sites"),
        (("birch", "cedar", "dogwood"), PeerError, "this site is not in it"),
        (("alder", "birch", "cedar", "mallory"), PeerError, "mallory"),
        (("alder", "birch", "cedar", "cedar"), PeerError, "twice"),
        ((), PeerError, "not in it"),
    ],
)
def test_a_survivor_list_that_breaks_the_rules_is_not_signed(survivors, error, match):
    world, instruction = at(Phase.SURVIVORS)
    refused_for_good(world, replace(instruction, survivors=survivors), error, match)


def test_survivors_one_by_one_dropped_stop_at_the_floor_of_the_plan():
    world = World(6)
    world.members = {s: world.member(s, plan_floor=6) for s in world.names}
    world.run(until=Phase.SURVIVORS)
    instruction = world.coordinator.instruction_for(world.names[0])
    fewer = replace(instruction, survivors=world.names[:5])
    refused_for_good(world, fewer, PolicyRefused, "ask for 6")


def test_a_site_leaves_before_its_upload_if_others_could_open_a_sum_below_its_floor():
    world, instruction = at(Phase.SHARES, 6, floor=6)  # t(6) = 5 of the others suffice
    refused_for_good(world, instruction, PolicyRefused, "ask for 6")


def test_survivors_below_the_threshold_are_not_signed():
    world, instruction = at(Phase.SURVIVORS, 7)  # t(7) = 5
    fewer = replace(instruction, survivors=world.names[:4])
    refused_for_good(world, fewer, PolicyRefused, "ask for 5")


def test_a_site_dropped_before_the_shares_cannot_come_back_as_survivor():
    world = World(5)
    world.run(until=Phase.SURVIVORS, silent_from={world.names[4]: Phase.SHARES})
    instruction = world.coordinator.instruction_for(world.names[0])
    back = replace(instruction, survivors=world.names)
    refused_for_good(world, back, PeerError, "elm")


def test_a_second_survivor_list_destroys_the_session():
    world, instruction = at(Phase.SURVIVORS)
    world.members[world.names[0]].instruct(instruction)
    second = replace(instruction, survivors=world.names[:3])
    refused_for_good(world, second, PeerError, "second, different")
    statement = survivor_statement(instruction.session, world.names, world.names)
    signatures = {s: world.authority.sign_as(s)(statement) for s in world.names}
    with pytest.raises(PeerError):
        world.members[world.names[0]].instruct(world.reveal(world.names[0], signatures))


@pytest.mark.parametrize("n", [4, 5, 7])
def test_two_survivor_lists_shown_to_two_camps_open_nothing(n):
    """The coordinator may pool all signatures it gets; no site releases a share."""
    world = World(n)
    world.run(until=Phase.SURVIVORS)
    instruction = world.coordinator.instruction_for(world.names[0])
    lists = dict.fromkeys(world.names, world.names)
    for site in world.names[: n // 2]:
        lists[site] = world.names[:-1]
    signatures: dict[SiteId, bytes] = {}
    for site in world.names:
        for answer in world.members[site].instruct(replace(instruction, survivors=lists[site])):
            signatures[site] = answer.signature
    for site in world.names:
        camp = {s: sig for s, sig in signatures.items() if lists[s] == lists[site]}
        pooled = {s: sig for s, sig in signatures.items() if s in lists[site]}
        for chosen in (camp, pooled):
            member = world.members[site]
            if member.machine.phase is SitePhase.SIGNED:
                with pytest.raises(PeerError):
                    member.instruct(world.reveal(site, chosen))
        assert not any(isinstance(a, RevealedShares) for a in world.members[site].sent)


# --- opening ---


def signatures_for(world: World, instruction: Reveal, signers: list[str]) -> dict:
    statement = survivor_statement(instruction.session, world.names, world.names)
    return {SiteId(s): world.authority.sign_as(SiteId(s))(statement) for s in signers}


@pytest.mark.parametrize("change", ["one left out", "a stranger beside", "for itself", "forged"])
def test_what_neighbours_signed_about_their_mask_partners_must_be_there_and_hold(change):
    world, instruction = at(Phase.UNMASKING)
    masked = dict(instruction.masked)
    if change == "one left out":
        masked.pop("birch")
    elif change == "a stranger beside":
        masked[SiteId("elm")] = masked["birch"]
    elif change == "for itself":
        masked[SiteId("alder")] = masked["birch"]
    else:
        masked[SiteId("birch")] = masked["cedar"]
    refused_for_good(world, replace(instruction, masked=masked), PeerError, "masked among")


def test_signatures_below_the_threshold_open_nothing():
    for count in (0, 1, 2):
        world, instruction = at(Phase.UNMASKING)
        few = signatures_for(world, instruction, NAMES[:count])
        refused_for_good(world, replace(instruction, signatures=few), PeerError, "need 3")


def test_a_forged_signature_opens_nothing_even_beside_enough_good_ones():
    world, instruction = at(Phase.UNMASKING)
    forged = {**instruction.signatures, "birch": instruction.signatures["cedar"]}
    refused_for_good(world, replace(instruction, signatures=forged), PeerError, "birch did not")


def test_signatures_of_sites_outside_the_list_do_not_count():
    world = World(4)
    world.run(until=Phase.UNMASKING, silent_from={world.names[3]: Phase.MASKED_UPDATE})
    instruction = world.coordinator.instruction_for(world.names[0])
    statement = survivor_statement(instruction.session, world.names, world.names[:3])
    sign = world.authority.sign_as
    signed = {s: sign(s)(statement) for s in (*world.names[1:], SiteId("hazel"))}
    del signed[world.names[1]]
    refused_for_good(world, replace(instruction, signatures=signed), PeerError, "need 3")


def test_signatures_over_another_sessions_list_open_nothing():
    _, old = at(Phase.UNMASKING, label="then")
    world, instruction = at(Phase.UNMASKING, label="now")
    replayed = replace(instruction, signatures=old.signatures)
    refused_for_good(world, replayed, PeerError, "did not sign")


def test_a_second_reveal_with_other_signatures_gets_nothing_new():
    world, instruction = at(Phase.UNMASKING)
    member = world.members[world.names[0]]
    first = member.instruct(instruction)
    assert member.instruct(instruction) == first
    fewer = signatures_for(world, instruction, NAMES[:3])
    with pytest.raises(PeerError, match="second, different"):
        member.instruct(replace(instruction, signatures=fewer))


def test_each_peer_is_opened_one_way_and_the_record_says_which():
    world = World(5)
    world.run(silent_from={world.names[4]: Phase.MASKED_UPDATE})
    for site in world.names[:4]:
        member = world.members[site]
        (opened,) = [a for a in member.sent if isinstance(a, RevealedShares)]
        assert set(opened.self_seeds) == set(world.names[:4])
        assert set(opened.mask_keys) == {world.names[4]}
        record = member.remembered[-1]
        assert isinstance(record, SharesRevealed)
        assert (record.survivors, record.lost) == (world.names[:4], world.names[4:])


# --- two models ---


def test_sites_that_were_given_different_models_open_nothing():
    """The coordinator renames the round in every message to keep both sites talking."""
    other_model = replace(ROUND, model="c" * 64)
    world = World(4)
    victim = world.names[0]
    world.members[victim] = World(4, round=other_model, label="victim").members[victim]
    adverts = {}
    for site in world.names:
        theirs = other_model if site == victim else ROUND
        world.members[site].instruct(Train(theirs))
        (adverts[site],) = world.members[site].instruct(AdvertiseKeys(theirs, world.names))
    for site in world.names:
        theirs = other_model if site == victim else ROUND
        renamed = tuple(
            adverts[s] if s == site else replace(adverts[s], round=theirs) for s in world.names
        )
        with pytest.raises(PeerError, match="signature does not hold for this round, model"):
            world.members[site].instruct(ShareSecrets(theirs, renamed))
        assert world.members[site].uploads == []


# --- late vectors ---


def chi_square_excess(data: bytes) -> float:
    """How many standard deviations a chi-square over byte values lies above its mean.

    255 degrees of freedom: mean 255, standard deviation sqrt(510).
    """
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    expected = len(data) / 256
    return (float(((counts - expected) ** 2).sum() / expected) - 255) / 510**0.5


# Normal approximation of the upper tail; with the skew of chi-square(255) the chance that a
# truly uniform stream passes this is below 1e-6 per check. The entropy of the tests is fixed,
# so a pass stays a pass.
LIMIT = 5.5
MANY = 100_000
WORDS = Layout((Vector("update", MANY),))


def test_the_uniformity_check_rejects_what_is_not_uniform():
    """Same check, wrong masks: none, 28-bit words, one byte value in place of another."""
    uniform = np.frombuffer(hashlib.shake_256(b"x").digest(4 * MANY), np.uint8)
    assert chi_square_excess(uniform.tobytes()) < LIMIT
    assert chi_square_excess(bytes(4 * MANY)) > LIMIT
    words = uniform.view(np.uint32) & np.uint32(2**28 - 1)
    assert chi_square_excess(words.tobytes()) > LIMIT
    assert chi_square_excess(np.where(uniform == 8, 7, uniform).tobytes()) > LIMIT


def upload_of(world: World, site: SiteId) -> np.ndarray:
    (masked,) = world.members[site].uploads
    return masked


def test_what_the_coordinator_receives_from_one_site_looks_uniform_whatever_was_sent():
    zeros, sevens = np.zeros(MANY, np.uint32), np.full(MANY, 7, np.uint32)
    uploads = []
    for label, vector in (("one", zeros), ("two", zeros), ("three", sevens)):
        vectors = {SiteId(n): vector.copy() for n in NAMES[:3]}
        world = World(3, layout=WORDS, vectors=vectors, label=label)
        world.run(until=Phase.SURVIVORS)
        for site in world.names:
            masked = upload_of(world, site)
            assert chi_square_excess(masked.tobytes()) < LIMIT
            # One mask value for all coordinates would show here.
            assert chi_square_excess(np.diff(masked).tobytes()) < LIMIT
            # Each of the low bits is a fair coin: 5 standard deviations, 6e-7 per bit.
            for bit in (0, 1, 8, 16, 31):
                ones = int(((masked >> np.uint32(bit)) & np.uint32(1)).sum())
                assert abs(ones - MANY / 2) < 5 * (MANY / 4) ** 0.5
        uploads.append(upload_of(world, world.names[0]))
        total = sum(upload_of(world, s) for s in world.names).astype(np.uint32)
        assert chi_square_excess(total.tobytes()) < LIMIT  # the self masks still cover the sum
    # Two uploads of the same update, and of updates a constant apart, differ uniformly.
    assert chi_square_excess((uploads[0] - uploads[1]).tobytes()) < LIMIT
    assert chi_square_excess((uploads[0] - uploads[2]).tobytes()) < LIMIT


def test_a_vector_that_comes_after_its_site_was_dropped_stays_covered():
    """The coordinator rebuilt the pair keys of the lost site; its self mask still hides it."""
    late = SiteId("dogwood")
    vectors = {SiteId(n): np.zeros(MANY, np.uint32) for n in NAMES[:4]}
    world = World(4, layout=WORDS, vectors=vectors)
    world.run(until=Phase.SURVIVORS)
    machine = world.members[late].machine
    masked = upload_of(world, late).copy()
    private = machine._secrets.mask.private  # what t shares of its mask key would give
    masks = [
        pair_mask(
            pair_mask_key(
                agree(private, world.coordinator._adverts[peer].mask_key),
                session=machine._topology.session,
                one=late,
                other=peer,
                vector=world.layout.vectors[0],
                cipher="aes-256-ctr",
            ),
            me=late,
            peer=peer,
        ).inverted()
        for peer in world.names[:3]
    ]
    apply_masks(masked, masks)
    assert chi_square_excess(masked.tobytes()) < LIMIT
    session = machine._topology.session
    with pytest.raises(PeerError, match="not in it"):  # and it signs no list without itself
        world.members[late].instruct(SignSurvivors(ROUND, session, world.names[:3]))


def test_two_runs_with_different_data_differ_in_nothing_but_cipher_text():
    """Lengths and clear fields of all that leaves a site are the same whatever it learned."""

    def shape(answer: object) -> object:
        if isinstance(answer, np.ndarray):
            return (answer.dtype.str, answer.shape)
        if isinstance(answer, bytes):
            return len(answer)
        if isinstance(answer, dict):
            return {k: shape(v) for k, v in answer.items()}
        if hasattr(answer, "__dataclass_fields__"):
            return {f: shape(getattr(answer, f)) for f in answer.__dataclass_fields__}
        return answer

    shapes = []
    for fill in (0, 2**31):
        vectors = {SiteId(n): np.full(9, fill, np.uint32) for n in NAMES[:4]}
        world = World(4, length=9, vectors=vectors, label=str(fill))
        world.run()
        shapes.append(
            [
                shape([*m.sent, *m.uploads][i])
                for m in world.members.values()
                for i in range(len(m.sent) + len(m.uploads))
            ]
        )
    assert shapes[0] == shapes[1]


# --- everything at once ---


@pytest.fixture(scope="module")
def hoard() -> list:
    """Instructions an attacker could hold: of this session, with lies, and of another one."""
    pool: list = [Train(ROUND), Closed(another_attempt(ROUND), Outcome.ABORTED, "")]
    for silent in ({}, {SiteId("dogwood"): Phase.MASKED_UPDATE}):
        for label in ("world", "elsewhere"):
            world = World(4, label=label)

            def note(site, instruction):
                if site == "alder":
                    pool.append(instruction)
                return instruction

            world.run(silent_from=silent, tamper=note)
    for item in list(pool):
        if isinstance(item, SignSurvivors):
            for count in (2, 3):
                pool.append(replace(item, survivors=tuple(NAMES[:count])))
        if isinstance(item, Reveal):
            half = dict(list(item.signatures.items())[:3])
            pool.append(replace(item, signatures=half))
        if isinstance(item, SendMasked):
            pool.append(only(item, *(s for s in item.among if s != "dogwood")))
    return [i for i in pool if not isinstance(i, Closed)]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_order_of_true_and_false_instructions_opens_a_peer_both_ways(hoard, data):
    world = World(4)
    member = world.members["alder"]
    member.instruct(Train(ROUND))
    order = data.draw(st.lists(st.sampled_from(range(len(hoard))), max_size=25))
    honest = data.draw(st.booleans())  # help it to get far more often
    if honest:
        order = sorted(order)
    for index in order:
        try:
            member.instruct(hoard[index])
        except (PeerError, PolicyRefused):
            continue
    opened = {
        (frozenset(a.self_seeds.items()), frozenset(a.mask_keys.items()))
        for a in member.sent
        if isinstance(a, RevealedShares)
    }
    assert len(opened) <= 1
    for seeds, masks in opened:
        assert not {s for s, _ in seeds} & {s for s, _ in masks}
    signed = {a.signature for a in member.sent if isinstance(a, SurvivorSignature)}
    assert len(signed) <= 1
    assert len({u.tobytes() for u in member.uploads}) <= 1


def test_the_hoard_lets_an_attacker_get_to_the_end(hoard):
    """Else the property above would hold for the wrong reason."""
    member = World(4).members["alder"]
    for instruction in hoard:
        try:
            member.instruct(instruction)
        except (PeerError, PolicyRefused):
            break
    assert any(isinstance(a, RevealedShares) for a in member.sent)


def test_the_coordinator_machine_passes_no_answer_of_a_site_for_another():
    world, _ = at(Phase.SURVIVORS)
    (answer,) = world.members["alder"].instruct(world.coordinator.instruction_for("alder"))
    with pytest.raises(PeerError, match="does not hold"):
        world.coordinator.handle(Answered(SiteId("birch"), answer), world.now)
