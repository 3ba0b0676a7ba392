"""Work on the long vector: what the machine can do at best, and what primia does."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM

from benchmarks.secagg.peers import values
from primia.federation.contribution import Contribution
from primia.protocol.messages import KeyAdvert
from primia.protocol.site_secrets import SiteSecrets
from primia.secagg.layout import Layout, Vector
from primia.secagg.packing import add_packed, pack
from primia.types import Ring, SiteId

BUFFER = 256 << 10  # bytes
SESSION = b"s" * 32
ME = SiteId("site-me")
CIPHER = "aes-256-ctr"


def limits(length: int) -> dict[str, Callable[[], object]]:
    """memcpy and a wrapping sum of vectors of `length` words, and key streams of as many bytes."""
    one, other = np.ones(length, np.uint32), np.ones(length, np.uint32)
    return {
        "memcpy": lambda: np.copyto(one, other),
        "uint32 add": lambda: np.add(one, other, out=one),
        "aes-256-ctr": lambda: key_stream(4 * length),
        "aes-256-gcm": lambda: key_stream(4 * length, _gcm),
        "chacha20": lambda: key_stream(4 * length, _chacha),
    }


def key_stream(size: int, start: Callable[[], CipherContext] | None = None) -> None:
    """`size` bytes of one raw key stream, into one small buffer again and again."""
    stream = (start or _ctr)()
    zeros, buffer = memoryview(bytes(BUFFER)), bytearray(BUFFER + 15)
    for begin in range(0, size, BUFFER):
        stream.update_into(zeros[: min(BUFFER, size - begin)], buffer)


def _ctr() -> CipherContext:
    return Cipher(AES256(bytes(32)), CTR(bytes(16))).encryptor()


def _gcm() -> CipherContext:
    return Cipher(AES256(bytes(32)), GCM(bytes(12))).encryptor()


def _chacha() -> CipherContext:
    return Cipher(ChaCha20(bytes(32), bytes(16)), None).encryptor()


class Site:
    """One site that has met `peers` others, with everything up to its upload."""

    def __init__(self, peers: int, contribution: Contribution) -> None:
        self.contribution = contribution
        self.layout = contribution.layout
        self.partners = [SiteId(f"site-{i:04d}") for i in range(peers)]
        self.secrets = SiteSecrets.make(ME, os.urandom)
        self.secrets.meet(adverts(self.partners))
        self.words = np.zeros(self.layout.length, np.uint32)

    def mask(self, words: Ring | None = None, *, threads: int = 1) -> None:
        """All pair masks and its own, keys derived on the way."""
        self.secrets.mask_in_place(
            self.words if words is None else words,
            self.layout,
            self.partners,
            session=SESSION,
            cipher=CIPHER,
            threads=threads,
        )

    def encode(self) -> Ring:
        """Quantised update and counts, as one vector."""
        metrics = np.zeros(self.contribution.metrics, np.int64)
        words, _ = self.contribution.encode(
            values(self.contribution.parameters), weight=1, metrics=metrics
        )
        return words

    def upload(self) -> bytearray:
        """Quantised, masked and packed, as it is sent."""
        words = self.encode()
        self.mask(words)
        return pack(words, self.layout)


def adverts(sites: Sequence[SiteId]) -> list[KeyAdvert]:
    """Fresh keys of these sites, without signatures."""
    from benchmarks.secagg.rounds import ROUND

    return [SiteSecrets.make(site, os.urandom).advert(ROUND) for site in sites]


def contribution(length: int, wire_bits: int) -> Contribution:
    """As a study of about `length` parameters has it: 20 bits in 24, or 24 in 32."""
    return Contribution(
        parameters=length,
        metrics=64,
        bits=20 if wire_bits == 24 else 24,
        value_range=4.0,
        wire_bits=wire_bits,
    )


def fold(layout: Layout) -> Callable[[], None]:
    """Add one packed upload to the running sum."""
    total = np.zeros(layout.length, np.uint32)
    packed = bytearray(os.urandom(layout.wire_bytes))
    return lambda: add_packed(total, packed, layout)


def one_vector(length: int) -> Layout:
    """A single vector of 32-bit words."""
    return Layout((Vector("update", length),))
