"""Masks: a cipher's key stream added to a ring vector, or taken off it.

Of each pair the lower id adds the shared mask and the higher one subtracts it, and each site
adds one mask of its own (Bonawitz et al., CCS 2017, section 6). The whole 32-byte key drives the
cipher: a mask is only as strong as what seeds it.

Words 65,536 c to 65,536 (c + 1) - 1 of a mask are the key stream under nonce c (12 bytes,
big-endian), read as little-endian words:

    aes-256-ctr   AES-256 in counter mode; the first counter block is nonce, 0, 0, 0, 2
    chacha20      ChaCha20 (RFC 8439) from counter 0

The first is what AES-256-GCM encrypts with (NIST SP 800-38D, 6.5 and 7.1), and so it is made: in
one run with the key stream of mode CTR, for which OpenSSL lacks the wide instructions, masks of
10 peers and self took 1.0 of its time by GCM and 1.3 by CTR. A nonce for each chunk lets several
threads share a vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM

from primia.types import Ring, SiteId

AES, CHACHA = "aes-256-ctr", "chacha20"
"""Ciphers by the names that plans use; a name is bound into the keys that it gets."""

CHUNK = 1 << 16
"""Words under one nonce, 256 KiB: fits in cache (measured best of 2^12 to 2^18)."""

_BLOCK = 16


@dataclass(frozen=True)
class Mask:
    """One key stream and its sign."""

    key: bytes = field(repr=False)
    subtract: bool = False

    def inverted(self) -> Mask:
        """The mask that takes this one off."""
        return Mask(self.key, not self.subtract)


def pair_mask(key: bytes, *, me: SiteId, peer: SiteId) -> Mask:
    """The mask that `me` applies for `peer`: the lower id adds, the higher subtracts."""
    if me == peer:
        raise ValueError(f"{me} has no pair mask with itself")
    return Mask(key, subtract=me > peer)


def expand_mask(key: bytes, length: int, *, cipher: str = AES) -> Ring:
    """`length` uniform elements of Z_{2^32} from a 32-byte key: the plain form of a mask.

    `apply_masks` gives the same, faster. Raises ValueError for a cipher of no known name.
    """
    stream = bytearray()
    for chunk in range(-(-length // CHUNK)):
        nonce = chunk.to_bytes(12, "big")
        if cipher == AES:
            encryptor = Cipher(AES256(key), CTR(nonce + bytes([0, 0, 0, 2]))).encryptor()
        else:
            encryptor = _encryptor(cipher, key, chunk)
        stream += encryptor.update(bytes(4 * CHUNK))
    return np.frombuffer(stream, dtype="<u4", count=length).astype(np.uint32)


def apply_masks_plainly(vector: Ring, masks: Iterable[Mask], *, cipher: str = AES) -> Ring:
    """The reference that tests hold `apply_masks` against; returns a new vector."""
    for mask in masks:
        stream = expand_mask(mask.key, vector.size, cipher=cipher)
        vector = vector - stream if mask.subtract else vector + stream
    return vector


def apply_masks(
    vector: Ring, masks: Iterable[Mask], *, cipher: str = AES, threads: int = 1
) -> None:
    """Add (or subtract) all masks to `vector` (uint32, shape (d,)) in place.

    Chunk by chunk with the masks inside: the first touch of fresh memory costs more than the
    cipher. Cipher and numpy release the interpreter lock, so `threads` share the chunks.
    Raises ValueError for another dtype or shape, a view with gaps, or an unknown cipher.
    """
    if vector.dtype != np.uint32 or vector.ndim != 1 or not vector.flags.c_contiguous:
        raise ValueError(f"vector: got {vector.dtype}{vector.shape}, need a flat uint32 vector")
    masks = tuple(masks)
    starts = range(0, vector.size, CHUNK)
    if threads == 1 or len(starts) == 1:
        _apply(vector, masks, cipher, starts)
        return
    with ThreadPoolExecutor(threads) as pool:
        shares = [starts[i::threads] for i in range(threads)]
        list(pool.map(lambda share: _apply(vector, masks, cipher, share), shares))


def _apply(vector: Ring, masks: Sequence[Mask], cipher: str, starts: range) -> None:
    stream = KeyStream(cipher)
    for start in starts:
        part = vector[start : start + CHUNK]
        for mask in masks:
            combine = np.subtract if mask.subtract else np.add
            combine(part, stream.words(mask.key, start // CHUNK, part.size), out=part)


class KeyStream:
    """Chunks of key streams, one after the other in a buffer made once."""

    def __init__(self, cipher: str = AES) -> None:
        self._cipher = cipher
        self._zeros = memoryview(bytes(4 * CHUNK))
        self._buffer = bytearray(4 * CHUNK + _BLOCK - 1)  # update_into may ask for a block more
        self._words = np.frombuffer(self._buffer, dtype="<u4", count=CHUNK)

    def words(self, key: bytes, chunk: int, count: int) -> Ring:
        """The first `count` words of that chunk under `key`; good until the next call."""
        encryptor = _encryptor(self._cipher, key, chunk)
        encryptor.update_into(self._zeros[: 4 * count], self._buffer)
        return self._words[:count]


def _encryptor(cipher: str, key: bytes, chunk: int) -> CipherContext:
    # Each key serves one mask only (its derivation names session, pair, vector and cipher), so
    # the number of the chunk is nonce enough.
    nonce = chunk.to_bytes(12, "big")
    if cipher == AES:
        return Cipher(AES256(key), GCM(nonce)).encryptor()
    if cipher == CHACHA:
        return Cipher(ChaCha20(key, bytes(4) + nonce), None).encryptor()
    raise ValueError(f"cipher {cipher!r} is unknown; use {AES} or {CHACHA}")
