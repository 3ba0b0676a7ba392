"""X25519 key pairs and everything derived from a secret, each use under its own label.

Derivations are HKDF-SHA256 (RFC 5869) with the session id as salt, so a key never outlives its
session, and with a length-prefixed `info` that opens with the label of its one use.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from primia.errors import PeerError
from primia.types import SiteId

KEY_BYTES = 32
"""Length of every secret, public key, session id and derived key."""

# One label for each use of derived bytes; never give one twice, never change one's meaning.
_PAIR_MASK = b"primia secagg v1 pair mask"
_SELF_MASK = b"primia secagg v1 self mask"
_SEAL = b"primia secagg v1 seal"
_COMMITMENT = b"primia secagg v1 seed commitment"


@dataclass(frozen=True)
class KeyPair:
    """X25519 (RFC 7748). `private` is raw, because the mask key is shared as 32 bytes."""

    private: bytes = field(repr=False)
    public: bytes


def framed(*parts: bytes) -> bytes:
    """Join parts, each behind its length (4 bytes, big-endian), so that no two lists collide."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def key_pair(private: bytes) -> KeyPair:
    """The key pair of 32 uniform bytes. Raises ValueError for another length."""
    if len(private) != KEY_BYTES:
        raise ValueError(f"private key: got {len(private)} bytes, need {KEY_BYTES}")
    public = X25519PrivateKey.from_private_bytes(private).public_key()
    return KeyPair(private=private, public=public.public_bytes_raw())


def agree(private: bytes, peer_public: bytes) -> bytes:
    """The X25519 shared secret, 32 bytes.

    Raises PeerError if the peer's key is no point of large order (RFC 7748, section 6.1: an
    all-zero secret means the peer forced it).
    """
    try:
        public = X25519PublicKey.from_public_bytes(peer_public)
        return X25519PrivateKey.from_private_bytes(private).exchange(public)
    except ValueError as err:
        raise PeerError("a peer's X25519 key is malformed or of small order; drop it") from err


def check_public_key(public: bytes) -> None:
    """Raise PeerError for a key that yields the all-zero secret with every partner.

    A clamped scalar is a multiple of the cofactor 8, so any one scalar shows it.
    """
    agree(b"\x01" * KEY_BYTES, public)


def matches(private: bytes, public: bytes) -> bool:
    """Whether `private` belongs to the advertised `public` key."""
    return hmac.compare_digest(key_pair(private).public, public)


def pair_mask_key(
    secret: bytes, *, session: bytes, one: SiteId, other: SiteId, vector: str, length: int
) -> bytes:
    """AES-256 key of the mask between two sites; the same whichever of them asks.

    secret: their X25519 secret. vector, length: name and coordinates of what is masked.
    """
    low, high = sorted((one, other))
    context = framed(
        _PAIR_MASK, low.encode(), high.encode(), vector.encode(), length.to_bytes(8, "big")
    )
    return _hkdf(secret, session, context)


def self_mask_key(seed: bytes, *, session: bytes, owner: SiteId, vector: str, length: int) -> bytes:
    """AES-256 key of a site's own mask, from its self seed."""
    context = framed(_SELF_MASK, owner.encode(), vector.encode(), length.to_bytes(8, "big"))
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


def _hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    if len(secret) != KEY_BYTES or len(salt) != KEY_BYTES:
        raise ValueError(f"secret {len(secret)} bytes, salt {len(salt)} bytes: both need 32")
    return HKDF(SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(secret)
