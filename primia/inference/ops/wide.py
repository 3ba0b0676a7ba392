"""ReLU in two messages each way instead of three, for long lines: the profile "wan".

The comparison's window is cut into two halves of up to 10 bits. For each half the dealer shares the
function z -> (G, P) itself, as the 2^k - 1 products of the half's bits of r, so the halves cost no
message (function secret sharing by the table of coefficients: for 8 bits 32 bytes, to one party
only, where a key of a distributed comparison function takes some hundred to both). What is left,

    y >= 0  =  c ^ p g        c: upper half's borrow and both top bits; p, g: the halves' P and G

has three secret bits, opened under masks gamma, mu, lambda; times y it is linear in the products of
these masks, and in their products with rho, which the dealer shares as ring elements.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from primia.inference.bits import Words, block_borrow, pack, products_of, unpack, words
from primia.inference.correlations import Dealer, Party, constant_one
from primia.inference.messages import Step, exchange
from primia.inference.ops.compare import bit_length
from primia.inference.ops.opening import (
    Opened,
    deal_mask,
    deal_rho,
    open_values,
    take_rho,
    top_type,
)

PRECISION_BITS = 9  # a real value within 2^-9 under zero may pass for zero
MAX_HALF = 10
_PART = 1 << 15  # values at a time: the arrays of one part stay in the cache
Received = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Halves:
    """`lower` bits from `low` up, `upper` bits above them, and then the sign."""

    low: int
    lower: int
    upper: int

    @property
    def bits(self) -> int:
        return self.lower + self.upper + 1


def halves(bound: float, scale: int) -> Halves | None:
    """The halves for real values up to `bound`, or None when they would be too long."""
    top = bit_length(bound, scale)
    low = max(0, scale - PRECISION_BITS)
    bits = max(2, top - low)
    if bits > 2 * MAX_HALF or top - bits < 0:
        return None
    return Halves(top - bits, bits // 2, bits - bits // 2)


def deal_wide_relu(dealer: Dealer, label: str, count: int, shift: int, cut: Halves) -> None:
    """For `wide_relu` of `count` values."""
    r = deal_mask(dealer, label, (count,))
    planes = pack(r, cut.low, cut.bits)
    dealer.give_bits(f"{label}/lower", products_of(planes[: cut.lower]))
    dealer.give_bits(f"{label}/upper", products_of(planes[cut.lower : -1]))
    dealer.give_bits(f"{label}/top", planes[-1])
    masks = unpack(dealer.mask_bits(f"{label}/masks", (3, words(count))), count)
    bits = products_of(masks.astype(np.uint64))
    dealer.give(f"{label}/masks", bits)
    deal_rho(dealer, f"{label}/rho", r, shift)
    for i, product in enumerate(bits):
        deal_rho(dealer, f"{label}/rho{i}", r, shift, times=product)


def wide_relu(
    party: Party, label: str, share: Words, shift: int, cut: Halves
) -> Generator[Step, Received, Words]:
    """Shares of max(y, 0) >> shift, from shares of flat values."""
    (z,) = yield from open_values(party, [(label, share)])
    count, lanes, one = z.size, words(z.size), constant_one(party)
    planes = pack(~z, cut.low, cut.bits)
    lower = party.share_bits(f"{label}/lower", ((1 << cut.lower) - 1, lanes))
    upper = party.share_bits(f"{label}/upper", ((1 << cut.upper) - 1, lanes))
    g, _ = block_borrow(lower, planes[: cut.lower], one)
    c, p = block_borrow(upper, planes[cut.lower : -1], one)
    c ^= party.share_bits(f"{label}/top", (lanes,)) ^ (planes[-1] & one)
    masked = np.stack([g, p, c]) ^ party.mask(f"{label}/masks", (3, lanes))
    (theirs,) = yield from exchange([masked])
    opened = unpack(masked ^ theirs, count)
    value = Opened(z, shift)
    bits = party.share(f"{label}/masks", (7, count))
    rho = take_rho(party, f"{label}/rho", value)
    out = np.empty(count, np.uint64)
    highs, tops = [], []
    for i in range(7):
        highs.append(party.share(f"{label}/rho{i}/high", (count,)))
        if shift:
            tops.append(party.share(f"{label}/rho{i}/top", (count,), top_type(shift)))
    for start in range(0, count, _PART):
        part = slice(start, start + _PART)
        first, *factors = _coefficients(opened[:, part])
        here = Opened(z[part], shift)
        constant = np.negative(rho[part])
        if party.role == 0:
            constant += here.zt
        total = first * constant
        of_zt, of_top = np.zeros_like(total), np.zeros_like(total)
        for i, factor in enumerate(factors):
            of_zt += factor * bits[i, part]
            total -= factor * highs[i][part]
            if shift:
                of_top += factor * tops[i][part]
        total += of_zt * here.zt
        if shift:
            total += here.wrap_term(of_top)
        out[part] = total
    return out


def _coefficients(opened: np.ndarray) -> list[Words]:
    """Of c ^ p g as a sum: of 1 and of each product of the masks, in the order of `products_of`.

    With opened bits G, P, C and masks lambda, mu, gamma, and s(X) = 1 - 2 X for either value:
    g = G + s(G) lambda and so on, and c ^ x = c + s(C) (1 - 2 gamma) x.
    """
    g, p, c = opened.astype(np.uint64)
    sg, sp, sc = (np.uint64(1) - (x << np.uint64(1)) for x in (g, p, c))
    # x = p g over the masks: of 1, lambda, mu, lambda mu
    x = [p * g, p * sg, sp * g, sp * sg]
    with_c = [sc * y for y in x]
    with_gamma = [np.negative(y << np.uint64(1)) for y in with_c]
    with_gamma[0] += sc
    with_c[0] += c
    return [*with_c, *with_gamma]
