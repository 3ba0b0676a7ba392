"""The translator: everything there and back, and nothing odd comes in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.errors import PeerError
from primia.protocol import messages as m
from primia.types import Digest, SiteId
from primia.wire import convert
from primia.wire.v1 import round_pb2 as pb

names = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True).map(SiteId)
digests = st.binary(min_size=32, max_size=32).map(lambda b: Digest(b.hex()))
b32 = st.binary(min_size=32, max_size=32)
signatures = st.binary(min_size=8, max_size=72)
shares = st.dictionaries(names, st.binary(min_size=1, max_size=512), max_size=4)
texts = st.text(max_size=1200).map(convert.clean)
cohorts = st.sets(names, max_size=5).map(lambda s: tuple(sorted(s)))
rounds = st.builds(
    m.RoundId,
    plan=digests,
    number=st.integers(1, 2**32 - 1),
    attempt=st.integers(1, 2**32 - 1),
    kind=st.sampled_from(m.RoundKind),
    model=digests,
)
adverts = st.builds(m.KeyAdvert, rounds, names, b32, b32, b32, signatures)
advert_lists = st.lists(adverts, max_size=4, unique_by=lambda a: a.site).map(
    lambda found: tuple(sorted(found, key=lambda a: a.site))
)
signed = st.dictionaries(names, signatures, max_size=4)
instructions = st.one_of(
    st.builds(m.Train, rounds),
    st.builds(m.AdvertiseKeys, rounds, cohorts),
    st.builds(m.ShareSecrets, rounds, advert_lists),
    st.builds(m.SendMasked, rounds, b32, cohorts, shares),
    st.builds(m.SignSurvivors, rounds, b32, cohorts),
    st.builds(m.Reveal, rounds, b32, signed, signed),
    st.builds(m.Closed, rounds, st.sampled_from(m.Outcome), texts),
)
answers = st.one_of(
    st.builds(m.Ready, rounds),
    st.builds(m.Declined, rounds, texts),
    adverts,
    st.builds(m.SealedShares, rounds, b32, shares),
    st.builds(m.Masked, rounds, b32, signatures),
    st.builds(m.SurvivorSignature, rounds, b32, signatures),
    st.builds(m.RevealedShares, rounds, b32, shares, shares),
)
ROUND = m.RoundId(Digest("1" * 64), 1, 1, m.RoundKind.TRAIN, Digest("2" * 64))
S = b"s" * 32


@given(instructions)
def test_an_instruction_comes_back_as_it_was_sent(instruction):
    data = convert.instruction_to_bytes(instruction)
    assert convert.instruction_from_bytes(data) == instruction


@given(answers)
def test_an_answer_comes_back_as_it_was_sent(answer):
    assert convert.answer_from_bytes(convert.answer_to_bytes(answer)) == answer


@given(answers)
@settings(max_examples=30)
def test_the_same_answer_is_the_same_bytes(answer):
    """A repeat is told from a change by comparing bytes."""
    again = convert.answer_from_bytes(convert.answer_to_bytes(answer))
    assert convert.answer_to_bytes(again) == convert.answer_to_bytes(answer)


def test_every_message_of_the_protocol_has_a_translation():
    assert {f.name for f in pb.Instruction.DESCRIPTOR.fields} == {
        _snake(kind.__name__) for kind in m.Instruction.__args__
    }
    assert {f.name for f in pb.Answer.DESCRIPTOR.fields} == {
        _snake(kind.__name__) for kind in m.Answer.__args__
    }


@given(st.binary(max_size=300))
def test_random_bytes_are_a_peer_error_and_nothing_else(data):
    for read in (convert.answer_from_bytes, convert.instruction_from_bytes):
        with pytest.raises(PeerError):
            read(data)


@given(answers, st.integers(0), st.integers(0, 255))
@settings(max_examples=300)
def test_a_changed_byte_is_a_message_or_a_peer_error(answer, at, value):
    data = bytearray(convert.answer_to_bytes(answer))
    data[at % len(data)] = value
    try:
        read = convert.answer_from_bytes(bytes(data))
    except PeerError:
        return
    assert isinstance(read, m.Answer)


def _round(**changes):
    fields = {"plan": S, "number": 1, "attempt": 1, "kind": pb.ROUND_KIND_TRAIN, "model": S}
    return pb.RoundId(**{**fields, **changes})


@pytest.mark.parametrize(
    ("round", "says"),
    [
        (_round(plan=b""), "plan digest: 0 bytes"),
        (_round(model=S + b"x"), "model digest: 33 bytes"),
        (_round(number=0), "count from 1"),
        (_round(attempt=0), "count from 1"),
        (_round(kind=0), "kind of round 0"),
        (_round(kind=77), "kind of round 77"),
        (pb.RoundId(), "count from 1"),
    ],
)
def test_a_round_that_is_not_whole_is_named(round, says):
    with pytest.raises(PeerError, match=says):
        convert.answer_from_pb(pb.Answer(ready=pb.Ready(round=round)))


@pytest.mark.parametrize("cohort", [["b", "a"], ["a", "a"], ["A"], [""], ["../x"], ["a", "b", "b"]])
def test_site_lists_are_sorted_named_once_and_plain(cohort):
    body = pb.AdvertiseKeys(round=convert.round_to_pb(ROUND), cohort=cohort)
    with pytest.raises(PeerError):
        convert.instruction_from_pb(pb.Instruction(advertise_keys=body))


def test_a_site_named_twice_in_a_mapping_is_refused_not_overwritten():
    twice = [pb.SiteBytes(site="a", data=b"1"), pb.SiteBytes(site="a", data=b"2")]
    body = pb.RevealedShares(round=convert.round_to_pb(ROUND), session=S, self_seeds=twice)
    with pytest.raises(PeerError, match="named once"):
        convert.answer_from_pb(pb.Answer(revealed_shares=body))


@pytest.mark.parametrize(
    "changes",
    [
        {"mask_key": b"m" * 31},
        {"seal_key": b""},
        {"seed_commitment": b"c" * 33},
        {"signature": b"x" * 73},
        {"signature": b""},
        {"site": "No Such Site"},
    ],
)
def test_key_adverts_have_exact_lengths(changes):
    good = convert.answer_to_pb(m.KeyAdvert(ROUND, SiteId("a"), S, S, S, b"signature"))
    convert.answer_from_pb(good)
    for name, value in changes.items():
        setattr(good.key_advert, name, value)
    with pytest.raises(PeerError):
        convert.answer_from_pb(good)


def test_a_session_of_another_length_is_refused():
    body = pb.SurvivorSignature(
        round=convert.round_to_pb(ROUND), session=b"s" * 31, signature=b"signature"
    )
    with pytest.raises(PeerError, match="session: 31 bytes"):
        convert.answer_from_pb(pb.Answer(survivor_signature=body))


def test_a_reason_cannot_forge_a_line_of_our_log():
    answer = m.Declined(ROUND, "no\n2026-01-01 round 1 committed \x1b[31m")
    sent = convert.answer_from_pb(convert.answer_to_pb(answer))
    assert sent.reason == "no 2026-01-01 round 1 committed ?[31m"
    closed = m.Closed(ROUND, m.Outcome.ABORTED, "a\nb")
    down = convert.instruction_from_pb(convert.instruction_to_pb(closed))
    assert down == m.Closed(ROUND, m.Outcome.ABORTED, "a b")
    raw = pb.Answer(declined=pb.Declined(round=convert.round_to_pb(ROUND), reason="a\nb"))
    with pytest.raises(PeerError, match="one printable line"):
        convert.answer_from_pb(raw)


def test_an_envelope_without_content_is_refused():
    with pytest.raises(PeerError, match="same version"):
        convert.answer_from_pb(pb.Answer())
    with pytest.raises(PeerError, match="same version"):
        convert.instruction_from_pb(pb.Instruction())


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
