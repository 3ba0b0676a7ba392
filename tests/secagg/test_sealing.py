from __future__ import annotations

import pytest

from primia.errors import PeerError
from primia.secagg.sealing import SEALED_BYTES, SharePair, seal, unseal
from primia.types import SiteId

ALDER, BIRCH, CEDAR = SiteId("alder"), SiteId("birch"), SiteId("cedar")
SECRET, SESSION = b"\x05" * 32, b"\x06" * 32
PAIR = SharePair(self_seed=b"\x01" * 33, mask_key=b"\x02" * 33)
CONTEXT = {"session": SESSION, "sender": ALDER, "receiver": BIRCH}


def test_a_sealed_pair_matches_the_known_answer(vectors):
    v, secret = vectors["sealing"], bytes.fromhex(vectors["keys"]["x25519"])
    pair = SharePair(bytes.fromhex(v["self_share"]), bytes.fromhex(v["key_share"]))
    context = {**CONTEXT, "session": bytes.fromhex(vectors["session"])}
    assert seal(pair, secret, **context).hex() == v["sealed"]
    assert unseal(bytes.fromhex(v["sealed"]), secret, **context) == pair


def test_every_forged_sealed_pair_is_refused(vectors):
    secret = bytes.fromhex(vectors["keys"]["x25519"])
    for forgery in vectors["forgeries"]["sealed"]:
        with pytest.raises(PeerError, match=forgery["refusal"]):
            unseal(
                bytes.fromhex(forgery["sealed"]),
                secret,
                session=bytes.fromhex(forgery["session"]),
                sender=SiteId(forgery["sender"]),
                receiver=SiteId(forgery["receiver"]),
            )


def test_a_sealed_pair_opens_for_its_receiver():
    sealed = seal(PAIR, SECRET, **CONTEXT)
    assert len(sealed) == SEALED_BYTES
    assert unseal(sealed, SECRET, **CONTEXT) == PAIR


@pytest.mark.parametrize(
    "changed",
    [
        {"session": b"\x07" * 32},
        {"sender": CEDAR},
        {"receiver": CEDAR},
        {"sender": BIRCH, "receiver": ALDER},
    ],
)
def test_a_sealed_pair_does_not_open_in_another_context(changed):
    with pytest.raises(PeerError, match="do not open"):
        unseal(seal(PAIR, SECRET, **CONTEXT), SECRET, **{**CONTEXT, **changed})


def test_a_sealed_pair_does_not_open_with_another_secret():
    with pytest.raises(PeerError, match="do not open"):
        unseal(seal(PAIR, SECRET, **CONTEXT), b"\x06" * 32, **CONTEXT)


def test_every_changed_byte_and_every_cut_is_noticed():
    sealed = seal(PAIR, SECRET, **CONTEXT)
    forged = [sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :] for i in range(len(sealed))]
    for bad in [*forged, sealed[:-1], sealed + b"\x00", b""]:
        with pytest.raises(PeerError, match="do not open"):
            unseal(bad, SECRET, **CONTEXT)


def test_a_share_pair_hides_its_shares():
    assert repr(PAIR) == "SharePair()"
