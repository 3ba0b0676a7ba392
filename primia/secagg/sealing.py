"""A pair of shares, sealed so that only one other site can read it.

ChaCha20-Poly1305 (RFC 8439). The coordinator carries the ciphertexts and can neither read,
change nor redirect them: associated data names session, sender, receiver and kind.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from primia.errors import PeerError
from primia.secagg.keys import framed, seal_key
from primia.secagg.shares import SHARE_BYTES
from primia.types import SiteId

SEALED_BYTES = 2 * SHARE_BYTES + 16
"""Length of every sealed pair: two shares and the tag."""

_KIND = b"primia secagg v2 share pair"
# The key is derived for one (session, sender, receiver) and seals one message, so the nonce
# cannot repeat under it.
_NONCE = bytes(12)


@dataclass(frozen=True)
class SharePair:
    """One holder's shares of one owner's two secrets, 33 bytes each."""

    self_seed: bytes = field(repr=False)
    mask_key: bytes = field(repr=False)


def seal(
    pair: SharePair, secret: bytes, *, session: bytes, sender: SiteId, receiver: SiteId
) -> bytes:
    """Encrypt `pair` for the receiver; `secret` is the X25519 secret of the two seal keys."""
    key = seal_key(secret, session=session, sender=sender, receiver=receiver)
    plain = pair.self_seed + pair.mask_key
    return ChaCha20Poly1305(key).encrypt(_NONCE, plain, _about(session, sender, receiver))


def unseal(
    sealed: bytes, secret: bytes, *, session: bytes, sender: SiteId, receiver: SiteId
) -> SharePair:
    """Open what `seal` made. Raises PeerError if anything about it differs."""
    key = seal_key(secret, session=session, sender=sender, receiver=receiver)
    try:
        plain = ChaCha20Poly1305(key).decrypt(_NONCE, sealed, _about(session, sender, receiver))
    except InvalidTag:
        plain = b""
    if len(plain) != 2 * SHARE_BYTES:
        raise PeerError(f"the shares from {sender} to {receiver} do not open; run the round again")
    return SharePair(self_seed=plain[:SHARE_BYTES], mask_key=plain[SHARE_BYTES:])


def _about(session: bytes, sender: SiteId, receiver: SiteId) -> bytes:
    return framed(_KIND, session, sender.encode(), receiver.encode())
