"""X25519 key pairs and everything derived from a secret, each use under its own label.

Derivations are HKDF-SHA256 (RFC 5869) with the session id as salt, so a key never outlives its
session, and with a length-prefixed `info` that opens with the label of its one use.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from primia.errors import PeerError
from primia.secagg.layout import Vector
from primia.types import SiteId

KEY_BYTES = 32
"""Length of every secret, public key, session id and derived key."""

# One label for each use of derived bytes; never give one twice, never change one's meaning.
_PAIR_MASK = b"primia secagg v2 pair mask"
_SELF_MASK = b"primia secagg v2 self mask"
_SEAL = b"primia secagg v2 seal"
_COMMITMENT = b"primia secagg v2 seed commitment"


@dataclass(frozen=True)
class KeyPair:
    """X25519 (RFC 7748). `private` is raw, because the mask key is shared as 32 bytes."""

    private: bytes = field(repr=False)
    public: bytes

    def agree(self, peer_public: bytes) -> bytes:
        """The X25519 secret with a peer, 32 bytes.

        Raises PeerError if the peer's key is no point of large order (RFC 7748, section 6.1: an
        all-zero secret means the peer forced it).
        """
        return _exchange(self._loaded, peer_public)

    @cached_property
    def _loaded(self) -> X25519PrivateKey:
        # Loading computes the public key again, which costs as much as an agreement.
        return X25519PrivateKey.from_private_bytes(self.private)


def framed(*parts: bytes) -> bytes:
    """Join parts, each behind its length (4 bytes, big-endian), so that no two lists collide."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def key_pair(private: bytes) -> KeyPair:
    """The key pair of 32 uniform bytes. Raises ValueError for another length."""
    if len(private) != KEY_BYTES:
        raise ValueError(f"private key: got {len(private)} bytes, need {KEY_BYTES}")
    public = X25519PrivateKey.from_private_bytes(private).public_key()
    return KeyPair(private=private, public=public.public_bytes_raw())


def clamp(private: bytes) -> bytes:
    """The form in which X25519 reads 32 bytes (RFC 7748, section 5): five bits are fixed.

    Keys are drawn in it, so that a share that is wrong in one of these bits shows.
    """
    return bytes([private[0] & 248, *private[1:31], private[31] & 127 | 64])


def agree(private: bytes, peer_public: bytes) -> bytes:
    """One agreement, as `KeyPair.agree`; for several with one private key that is faster."""
    return _exchange(X25519PrivateKey.from_private_bytes(private), peer_public)


def _exchange(private: X25519PrivateKey, peer_public: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(peer_public))
    except ValueError as err:
        raise PeerError("a peer's X25519 key is malformed or of small order; drop it") from err


def check_public_key(public: bytes) -> None:
    """Raise PeerError for a key that yields the all-zero secret with every partner.

    A clamped scalar is a multiple of the cofactor 8, so any one scalar shows it.
    """
    agree(b"\x01" * KEY_BYTES, public)


def matches(private: bytes, public: bytes) -> bool:
    """Whether `private`, clamped, belongs to the advertised `public` key."""
    if clamp(private) != private:
        return False
    return hmac.compare_digest(key_pair(private).public, public)


def pair_mask_key(
    secret: bytes, *, session: bytes, one: SiteId, other: SiteId, vector: Vector, cipher: str
) -> bytes:
    """Key of two sites' mask for one vector; the same whichever of them asks.

    secret: their X25519 secret. cipher: name of the cipher that will stretch the key.
    """
    low, high = sorted((one, other))
    context = framed(_PAIR_MASK, low.encode(), high.encode(), *_purpose(vector, cipher))
    return _hkdf(secret, session, context)


def self_mask_key(
    seed: bytes, *, session: bytes, owner: SiteId, vector: Vector, cipher: str
) -> bytes:
    """Key of a site's own mask for one vector, from its self seed."""
    context = framed(_SELF_MASK, owner.encode(), *_purpose(vector, cipher))
    return _hkdf(seed, session, context)


def seal_key(secret: bytes, *, session: bytes, sender: SiteId, receiver: SiteId) -> bytes:
    """ChaCha20-Poly1305 key of the one message from sender to receiver in a session."""
    return _hkdf(secret, session, framed(_SEAL, sender.encode(), receiver.encode()))


def commit_to_seed(seed: bytes, *, owner: SiteId) -> bytes:
    """What a site signs about its self seed before anyone holds a share of it, 32 bytes.

    Hides because the seed is 32 uniform bytes; binds because HKDF-SHA256 resists collisions.
    No session yet: the session id is made from the advertisements that carry this.
    """
    return _hkdf(seed, bytes(KEY_BYTES), framed(_COMMITMENT, owner.encode()))


def opens_commitment(seed: bytes, commitment: bytes, *, owner: SiteId) -> bool:
    """Whether `seed` is the one that `owner` committed to."""
    return hmac.compare_digest(commit_to_seed(seed, owner=owner), commitment)


def _purpose(vector: Vector, cipher: str) -> tuple[bytes, ...]:
    """What a mask key is for, as parts of its context."""
    length, bits = vector.length.to_bytes(8, "big"), vector.bits.to_bytes(8, "big")
    return cipher.encode(), vector.name.encode(), length, bits


def _hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    if len(secret) != KEY_BYTES or len(salt) != KEY_BYTES:
        raise ValueError(f"secret {len(secret)} bytes, salt {len(salt)} bytes: both need 32")
    return HKDF(SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(secret)
