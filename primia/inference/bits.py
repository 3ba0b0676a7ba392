"""Bit-sliced logic: one bit of 64 values in a word, so one AND serves 64 comparisons.

Plane: bit i of every value, packed, uint64 (..., words(n)); value j is bit j % 64 of word j // 64.
A secret plane is the XOR of two shares. `one` is a party's share of the constant 1 in every bit:
all ones at the data party, zero at the other.

A comparison of a public z with a secret r asks for the borrow of z - r. A bit generates it,
g = ~z & r, or passes it on, p = ~(z ^ r). Of a run of bits:

    G = g3 ^ p3 g2 ^ p3 p2 g1 ^ p3 p2 p1 g0        P = p3 p2 p1 p0
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]

BLOCK = 4  # secret bits whose products the dealer shares: 15 for each block


def words(count: int) -> int:
    """Words of a plane of `count` values."""
    return -(-count // 64)


def pack(values: Words, low: int, count: int) -> Words:
    """Bits low..low+count-1 of `values` (..., n) as planes (count, ..., words(n))."""
    n = values.shape[-1]
    planes = np.zeros((count, *values.shape[:-1], 8 * words(n)), np.uint8)
    for first in range(0, count, 8):
        octet = (values >> np.uint64(low + first)).astype(np.uint8)
        for i in range(first, min(first + 8, count)):
            bit = octet & np.uint8(1 << (i - first))
            planes[i, ..., : -(-n // 8)] = np.packbits(bit, axis=-1, bitorder="little")
    return planes.view("<u8")


def unpack(plane: Words, count: int) -> Bytes:
    """The bits of a plane (..., words(count)) as 0 and 1, (..., count)."""
    octets = np.ascontiguousarray(plane).view(np.uint8)
    return np.unpackbits(octets, axis=-1, count=count, bitorder="little")


def products_of(planes: Words) -> Words:
    """All products of the planes (k, ...): (2^k - 1, ...), set s at position s - 1."""
    k = planes.shape[0]
    out = np.empty(((1 << k) - 1, *planes.shape[1:]), np.uint64)
    for i in range(k):
        first = (1 << i) - 1  # set 2^i, and behind it 2^i with every set below
        out[first] = planes[i]
        np.bitwise_and(planes[i], out[:first], out=out[first + 1 : 2 * first + 1])
    return out


def block_borrow(products: Words, not_z: Words, one: np.uint64) -> tuple[Words, Words]:
    """Shares of a block's (G, P), from shares of r's `products_of` and the public ~z (k, ...).

    With e = ~z: g = e r and p = r ^ e, so G and P are linear in the products; no message.
    """
    e = not_z
    top = e.shape[0] - 1
    half = 1 << top
    g = e[top] & products[half - 1]
    # table[s]: the share of p_top times the product s of the bits below; then of two p, and so on.
    table = np.empty((half, *e.shape[1:]), np.uint64)
    np.bitwise_and(e[top], one, out=table[0])
    np.bitwise_and(e[top], products[: half - 1], out=table[1:])
    table ^= products[half - 1 :]
    for bit in range(top - 1, -1, -1):
        half = 1 << bit
        g ^= e[bit] & table[half]
        table = table[half:] ^ (e[bit] & table[:half])
    return g, table[0]


def fold(table: Words, bit: Words) -> Words:
    """Multiply by the lowest remaining factor of a table over sets, `bit` being its opened value.

    The factor is bit ^ mu with mu secret; table[s] is a share of something times mu_s.
    """
    return table[1::2] ^ (bit & table[::2])


def composite(count: int) -> list[int]:
    """The sets of two or more of `count` elements: products that only the dealer can share."""
    return [s for s in range(1 << count) if s.bit_count() > 1]
