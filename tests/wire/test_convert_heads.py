"""Heads over the wire: what goes in comes out, what is odd is refused, real calls carry both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.errors import PeerError
from primia.identity.heads import Countersigned, Mark, SignedHeads, SiteHeads
from primia.types import Digest, SiteId
from primia.wire import convert_heads
from primia.wire.v1 import federation_pb2 as pb

digests = st.binary(min_size=32, max_size=32).map(lambda b: Digest(b.hex()))
marks = st.builds(Mark, st.integers(0, 2**53), digests)
sites = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True).map(SiteId)
heads = st.builds(SiteHeads, digests, sites, st.integers(0, 2**53), marks, marks)
signatures = st.binary(min_size=8, max_size=72)
pems = st.text("abc-\n", min_size=1, max_size=50).map(str.encode)


@given(st.builds(SignedHeads, heads, signatures, pems))
def test_signed_heads_come_back_from_wire_and_database(signed):
    message = convert_heads.signed_to_pb(signed)
    again = pb.SignedHeads.FromString(message.SerializeToString())
    assert convert_heads.signed_from_pb(again) == signed
    assert SignedHeads.from_json(signed.to_json()) == signed


@given(st.builds(Countersigned, heads, marks, signatures, pems))
def test_a_countersignature_comes_back_from_wire_and_database(found):
    message = convert_heads.countersigned_to_pb(found)
    again = pb.Countersigned.FromString(message.SerializeToString())
    assert convert_heads.countersigned_from_pb(again) == found
    assert Countersigned.from_json(found.to_json()) == found


@given(heads, heads)
def test_different_heads_are_different_statements(one, other):
    assert (one.statement() == other.statement()) == (one == other)


@pytest.mark.parametrize("change", ["digest", "site", "count", "signature", "certificate"])
def test_odd_heads_are_refused(change):
    mark = Mark(1, Digest("ab" * 32))
    good = SignedHeads(SiteHeads(mark.digest, SiteId("a"), 1, mark, mark), bytes(70), b"pem")
    message = convert_heads.signed_to_pb(good)
    match change:
        case "digest":
            message.heads.audit.digest = bytes(31)
        case "site":
            message.heads.site = "../x"
        case "count":
            message.heads.ledger.count = 2**60
        case "signature":
            message.signature = bytes(73)
        case "certificate":
            message.certificate = b"\xff" * 8
    with pytest.raises(PeerError):
        convert_heads.signed_from_pb(message)


def test_real_calls_carry_heads_both_ways(world):
    mark = Mark(3, Digest("ab" * 32))
    mine = SignedHeads(SiteHeads(mark.digest, SiteId("munich"), 2, mark, mark), bytes(70), b"pem")
    theirs = Countersigned(mine.heads, Mark(9, mark.digest), bytes(71), b"pem")
    seen = []

    def last_heads(identity, last):
        seen.append((identity.name, last))
        return mine if last else None

    def countersign(identity, certificate, given, last):
        seen.append((identity.name, given, last))
        return theirs

    world.handler.last_heads, world.handler.countersign = last_heads, countersign
    client = world.client()
    assert client.last_heads(None) is None
    assert client.last_heads(theirs) == mine
    assert client.countersign(mine, theirs) == theirs
    assert seen == [("munich", None), ("munich", theirs), ("munich", mine, theirs)]
