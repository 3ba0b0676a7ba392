"""Opening a value under a mask, and what follows from it: exact truncation.

Both parties learn z = y + 2^62 + r modulo 2^64; r is uniform, and the dealer can share its bits.
With -2^62 <= y < 2^62, the sum y + 2^62 + r passes 2^64 just when the highest bit of r is 1 and
that of z is 0, so y >> shift is a public zt less a secret rho, exact to one unit in all that range:

    zt = (z >> shift) - 2^(62 - shift)
    rho = (r >> shift) - w top(r) 2^(64 - shift)        w = 1 - top(z)

(To truncate each share by itself, as is often done, fails with a probability that grows with |y|.)
The result is y / 2^shift rounded down or up, up with the probability of the fraction.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from primia.inference.bits import Words
from primia.inference.correlations import Dealer, Party, Shape
from primia.inference.messages import Step, exchange
from primia.inference.prg import Unsigned

OFFSET = np.uint64(1 << 62)
MAX_BITS = 62  # of a value that is opened, without its sign
Received = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Opened:
    """A value's public z, and by how many bits it is truncated."""

    z: Words
    shift: int

    @cached_property
    def zt(self) -> Words:
        """The public part of the truncated value."""
        return (self.z >> np.uint64(self.shift)) - (OFFSET >> np.uint64(self.shift))

    @cached_property
    def wraps(self) -> Words:
        """w: 1 where a set top bit of r means that the sum passed 2^64."""
        return (self.z >> np.uint64(63)) ^ np.uint64(1)

    def rho(self, high: Words, top: Unsigned | None) -> Words:
        """From shares of q (r >> shift) and q top(r), the share of q rho, for any secret q."""
        if top is None:
            return high
        return high - self.wrap_term(top)

    def wrap_term(self, top: Unsigned) -> Words:
        """The share of w top(r) 2^(64 - shift), times the same q."""
        term = top.astype(np.uint64)
        term <<= np.uint64(64 - self.shift)
        term *= self.wraps
        return term


def top_type(shift: int) -> npt.DTypeLike:
    """The narrowest type for something that counts modulo 2^shift only."""
    return next(t for t in (np.uint8, np.uint16, np.uint32, np.uint64) if np.iinfo(t).bits >= shift)


def open_values(
    party: Party, values: Sequence[tuple[str, Words]]
) -> Generator[Step, Received, list[Words]]:
    """Open several values (label, share) in one message; each z as above."""
    masked: list[Words] = []
    for label, share in values:
        mine = party.mask(f"{label}/r", share.shape)
        mine += share
        if party.role == 0:
            mine += OFFSET
        masked.append(mine)
    theirs = yield from exchange(masked)
    return [a + b for a, b in zip(masked, theirs, strict=True)]


def deal_mask(dealer: Dealer, label: str, shape: Shape) -> Words:
    """The r of a value that is opened under that label."""
    return dealer.mask(f"{label}/r", shape)


def deal_rho(dealer: Dealer, label: str, r: Words, shift: int, times: Words | None = None) -> None:
    """For `take_rho`: shares of r >> shift and its top bit, both times a secret 0 or 1."""
    high, top = r >> np.uint64(shift), r >> np.uint64(63)
    if times is not None:
        high *= times
        top *= times
    dealer.give(f"{label}/high", high)
    if shift:
        dealer.give(f"{label}/top", top.astype(top_type(shift)))


def take_rho(party: Party, label: str, opened: Opened, shape: Shape | None = None) -> Words:
    """The share of rho (times that secret)."""
    shape = opened.z.shape if shape is None else shape
    high = party.share(f"{label}/high", shape)
    if not opened.shift:
        return high
    return opened.rho(high, party.share(f"{label}/top", shape, top_type(opened.shift)))


def deal_truncate(dealer: Dealer, label: str, shape: Shape, shift: int) -> None:
    """For `truncate` of one value."""
    deal_rho(dealer, f"{label}/rho", deal_mask(dealer, label, shape), shift)


def truncate(
    party: Party, values: Sequence[tuple[str, Words, int]]
) -> Generator[Step, Received, list[Words]]:
    """Shares of y >> shift for several (label, share of y, shift), in one message."""
    opened = yield from open_values(party, [(label, share) for label, share, _ in values])
    found: list[Words] = []
    for (label, _, shift), z in zip(values, opened, strict=True):
        value = Opened(z, shift)
        share = np.negative(take_rho(party, f"{label}/rho", value))
        if party.role == 0:
            share += value.zt
        found.append(share)
    return found
