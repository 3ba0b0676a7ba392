"""Signs, ReLU and maxima, out of the opening that truncates.

The sign of y is a bit of z - r. Only a window of their bits is compared: 4 `blocks` bits from
`low` up, and the sign bit above them. Bits under the window are left out: a y just under zero, by
less than 2^low, may count as not negative. Bits above it are copies of the sign as long as
|y| < 2^(low + 4 blocks).
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from primia.inference.bits import (
    BLOCK,
    Words,
    block_borrow,
    pack,
    products_of,
    unpack,
    words,
)
from primia.inference.correlations import Dealer, Party, Shape, constant_one
from primia.inference.messages import Step, exchange
from primia.inference.ops.gates import borrow, deal_borrow
from primia.inference.ops.opening import (
    MAX_BITS,
    Opened,
    deal_mask,
    deal_rho,
    open_values,
    take_rho,
)

PRECISION_BITS = 12  # a real value within 2^-12 under zero may pass for zero
MAX_BLOCKS = 12
Received = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Window:
    low: int
    blocks: int

    @property
    def bits(self) -> int:
        """The bits compared, with the sign bit."""
        return BLOCK * self.blocks + 1


def window(bound: float, scale: int, precision: int = PRECISION_BITS) -> Window:
    """The narrowest window for real values up to `bound` with `scale` fraction bits.

    Raises ValueError when such values do not fit the ring.
    """
    top = bit_length(bound, scale)
    if top >= MAX_BITS:
        raise ValueError(f"values up to {bound:.4g} do not fit {scale} fraction bits")
    wanted = max(1, -(-(top - max(0, scale - precision)) // BLOCK))
    blocks = min(wanted, MAX_BLOCKS)
    return Window(max(0, top - BLOCK * blocks), blocks)


def bit_length(bound: float, scale: int) -> int:
    """Bits that hold every |y| <= bound, and the unit by which roundings may pass it."""
    return max(1, log2_ceil(bound * 1.001) + scale)


def log2_ceil(value: float) -> int:
    """The least k with value <= 2^k, free of a logarithm's rounding: all parties must agree."""
    mantissa, exponent = math.frexp(value)
    return exponent - (mantissa == 0.5)


def deal_signs(
    dealer: Dealer, label: str, r: Words, window: Window, fan_out: tuple[int, ...] = ()
) -> None:
    """For `signs` of z (*fan_out, *r.shape), where r (..., n) masks all of the fan-out."""
    planes = pack(r, window.low, window.bits)
    blocks = planes[:-1].reshape(window.blocks, BLOCK, *planes.shape[1:])
    products = np.stack([products_of(block) for block in blocks])
    dealer.give_bits(f"{label}/blocks", products)
    dealer.give_bits(f"{label}/top", planes[-1])
    deal_borrow(dealer, label, window.blocks, (*fan_out, *planes.shape[1:]))


def signs(
    party: Party, label: str, z: Words, window: Window, mask_shape: Shape | None = None
) -> Generator[Step, Received, Words]:
    """Shares of the planes of y >= 0, from the public z = y + r (..., n), or several z for one r.

    mask_shape: the shape of r when z has further dimensions in front.
    """
    shape = z.shape if mask_shape is None else mask_shape
    lanes = (*shape[:-1], words(shape[-1]))
    one = constant_one(party)
    planes = pack(~z, window.low, window.bits)
    products = party.share_bits(f"{label}/blocks", (window.blocks, 15, *lanes))
    products = products.reshape(window.blocks, 15, *(1 for _ in z.shape[len(shape) :]), *lanes)
    top = party.share_bits(f"{label}/top", lanes)
    pairs = [
        block_borrow(products[b], planes[BLOCK * b : BLOCK * (b + 1)], one)
        for b in range(window.blocks)
    ]
    carry = yield from borrow(party, label, pairs)
    # sign = z_top ^ r_top ^ carry; the plane holds ~z_top, so this is its complement.
    positive: Words = carry ^ top ^ (planes[-1] & one)
    return positive


def deal_relu(dealer: Dealer, label: str, shape: Shape, shift: int, window: Window) -> None:
    """For `relu` of values of that shape."""
    r = deal_mask(dealer, label, shape)
    deal_signs(dealer, label, r, window)
    planes = dealer.mask_bits(f"{label}/beta", (*shape[:-1], words(shape[-1])))
    beta = unpack(planes, shape[-1]).astype(np.uint64)
    dealer.give(f"{label}/beta", beta)
    deal_rho(dealer, f"{label}/rho", r, shift)
    deal_rho(dealer, f"{label}/beta-rho", r, shift, times=beta)


def relu(
    party: Party, label: str, share: Words, shift: int, window: Window
) -> Generator[Step, Received, Words]:
    """Shares of max(y, 0) >> shift, from shares of y (..., n)."""
    (z,) = yield from open_values(party, [(label, share)])
    positive = yield from signs(party, label, z, window)
    positive = positive ^ party.mask(f"{label}/beta", positive.shape)
    (theirs,) = yield from exchange([positive])
    chosen = unpack(positive ^ theirs, share.shape[-1]).view(np.bool_)
    # With public c = (y >= 0) ^ beta: the answer is beta t where c is 0, else (1 - beta) t.
    value = Opened(z, shift)
    beta = party.share(f"{label}/beta", z.shape)
    rho = take_rho(party, f"{label}/rho", value)
    out = beta * value.zt
    out -= take_rho(party, f"{label}/beta-rho", value)
    rest = np.negative(rho)
    if party.role == 0:
        rest += value.zt
    rest -= out
    np.copyto(out, rest, where=chosen)
    return out
