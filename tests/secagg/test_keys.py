from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest

from primia.errors import PeerError
from primia.secagg import keys
from primia.secagg.layout import Vector
from primia.types import SiteId

ALDER, BIRCH = SiteId("alder"), SiteId("birch")


def test_key_pairs_and_derivations_match_the_known_answers(vectors):
    v = vectors["keys"]
    session = bytes.fromhex(vectors["session"])
    a = keys.key_pair(bytes.fromhex(v["private_a"]))
    b = keys.key_pair(bytes.fromhex(v["private_b"]))
    assert (a.public.hex(), b.public.hex()) == (v["public_a"], v["public_b"])
    secret = keys.agree(a.private, b.public)
    assert secret == keys.agree(b.private, a.public) == a.agree(b.public)
    assert secret.hex() == v["x25519"]
    of = {"session": session, "vector": Vector(v["vector"], v["length"], v["bits"])}
    for one, other in ((ALDER, BIRCH), (BIRCH, ALDER)):
        pair = {"one": one, "other": other, **of}
        assert keys.pair_mask_key(secret, cipher=v["cipher"], **pair).hex() == v["pair"]
        assert keys.pair_mask_key(secret, cipher="chacha20", **pair).hex() == v["pair_chacha20"]
    own = keys.self_mask_key(a.private, owner=ALDER, cipher=v["cipher"], **of)
    assert own.hex() == v["self"]
    sealing = keys.seal_key(secret, session=session, sender=ALDER, receiver=BIRCH)
    assert sealing.hex() == v["seal"]
    assert keys.commit_to_seed(a.private, owner=ALDER).hex() == v["commitment"]


def test_x25519_matches_rfc_7748_section_6_1():
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob_public = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert keys.agree(alice, bob_public).hex() == shared


def purposes(session: bytes) -> list[dict[str, Any]]:
    """Every mixture of names, lengths, widths and ciphers of a vector, two of each."""
    return [
        {"session": session, "vector": Vector(name, length, bits), "cipher": cipher}
        for name, length, bits, cipher in itertools.product(
            ("v", "w"), (10, 11), (24, 32), ("aes-256-ctr", "chacha20")
        )
    ]


def test_every_context_gives_another_key():
    secret, seed = bytes(range(32)), bytes(range(32))
    derived = [keys.commit_to_seed(seed, owner=s) for s in (ALDER, BIRCH)]
    # Names that would read the same if they were only joined together.
    pairs = [("a", "bc"), ("ab", "c"), ("a", "b"), ("abc", "c")]
    for session, (one, other) in itertools.product((bytes(32), b"\x01" * 32), pairs):
        low, high = SiteId(one), SiteId(other)
        derived.append(keys.seal_key(secret, session=session, sender=low, receiver=high))
        derived.append(keys.seal_key(secret, session=session, sender=high, receiver=low))
        for of in purposes(session):
            derived.append(keys.pair_mask_key(secret, one=low, other=high, **of))
    for session, owner in itertools.product((bytes(32), b"\x01" * 32), (ALDER, BIRCH)):
        for of in purposes(session):
            derived.append(keys.self_mask_key(seed, owner=owner, **of))
    assert len(set(derived)) == len(derived)


def test_framed_lists_never_collide():
    lists = [(), (b"",), (b"", b""), (b"a", b"b"), (b"ab",), (b"a\x00\x00\x00\x01b",)]
    assert len({keys.framed(*parts) for parts in lists}) == len(lists)


def test_public_keys_of_small_order_or_another_length_are_refused(vectors):
    mine = keys.key_pair(b"\x42" * 32)
    for forgery in vectors["forgeries"]["public_keys"]:
        public = bytes.fromhex(forgery["public"])
        for refuse in (keys.check_public_key, mine.agree, partial(keys.agree, mine.private)):
            with pytest.raises(PeerError, match=forgery["refusal"]):
                refuse(public)


def test_a_wrong_private_key_or_seed_does_not_match_its_advertisement():
    pair = keys.key_pair(keys.clamp(b"\x07" * 32))
    assert keys.matches(pair.private, pair.public)
    assert not keys.matches(keys.clamp(b"\x18" * 32), pair.public)
    assert not keys.matches(b"\x07" * 32, pair.public)  # the same to X25519, but not as drawn
    commitment = keys.commit_to_seed(b"\x07" * 32, owner=ALDER)
    assert keys.opens_commitment(b"\x07" * 32, commitment, owner=ALDER)
    assert not keys.opens_commitment(b"\x08" * 32, commitment, owner=ALDER)
    assert not keys.opens_commitment(b"\x07" * 32, commitment, owner=BIRCH)


def test_secrets_of_another_length_are_refused():
    with pytest.raises(ValueError, match="32"):
        keys.key_pair(b"\x01" * 31)
    with pytest.raises(ValueError, match="32"):
        keys.seal_key(b"\x01" * 16, session=bytes(32), sender=ALDER, receiver=BIRCH)


def test_a_key_pair_hides_its_private_half():
    pair = keys.key_pair(b"\x07" * 32)
    pair.agree(keys.key_pair(b"\x08" * 32).public)
    assert "private" not in repr(pair)
