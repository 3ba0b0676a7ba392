"""Real numbers and counts as ring elements, so that sums survive the masks exactly.

Updates are signed fixed point: a value in ±range becomes one of 2^bits - 1 integers, written in
two's complement. Sums wrap modulo 2^ring_bits (24 or 32) and are read back as signed, which is
exact as long as the true sum fits: `fits` says for how many sites that is proved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from primia.errors import RoundFailed
from primia.secagg.masks import CHUNK, KeyStream
from primia.types import Ring

COUNT_LIMIT = 2**22
"""Largest single count: those of 1,000 sites still add up below 2^32."""


def largest(bits: int) -> int:
    """The largest integer that one encoded coordinate takes; the smallest is its negative."""
    if not 2 <= bits <= 32:
        raise ValueError(f"bits: got {bits}, need 2 to 32")
    return int(2 ** (bits - 1)) - 1


def encoding_step(*, bits: int, value_range: float) -> float:
    """Distance between two neighbouring encoded values; rounding errs by half of it at most.

    (Stochastic rounding by less than a whole one.)
    """
    if not 0 < value_range < float("inf"):
        raise ValueError(f"value_range: got {value_range}, need a finite number above 0")
    return value_range / largest(bits)


def fits(*, bits: int, sites: int, ring_bits: int = 32) -> bool:
    """Whether the sum over `sites` encoded vectors can never leave the ring's signed range.

    Each coordinate is at most 2^(bits-1) - 1 in size, so the sum is at most sites times that.
    """
    return sites * largest(bits) <= largest(ring_bits)


def encode(
    values: npt.NDArray[np.float32] | npt.NDArray[np.float64],
    *,
    bits: int,
    value_range: float,
    entropy: Callable[[int], bytes] | None = None,
    out: Ring | None = None,
) -> tuple[Ring, int]:
    """Fixed-point form of `values` (shape (d,)), clipped to ±value_range.

    Rounded to nearest; with `entropy` (n → n fresh bytes, asked for 32) up or down at random
    with the clipped value as expectation, to within 2^-20 of a step (Gupta et al., ICML 2015,
    section 3). Returns the ring vector (uint32, shape (d,)), which is `out` where that is given,
    and how many coordinates were clipped. Raises ValueError for non-finite values or another shape
    or dtype.
    """
    if values.ndim != 1 or values.dtype not in (np.float32, np.float64):
        raise ValueError(f"values: got {values.dtype}{values.shape}, need a flat float vector")
    per_unit = 1.0 / encoding_step(bits=bits, value_range=value_range)
    top = largest(bits)
    dither = None if entropy is None else _Dither(entropy(32))
    ring = np.empty(values.size, np.uint32) if out is None else out
    if ring.dtype != np.uint32 or ring.shape != values.shape:
        raise ValueError(f"out: got {ring.dtype}{ring.shape}, need uint32{values.shape}")
    buffer = np.empty(CHUNK, np.float64)  # float32 times per_unit would round once more
    clipped = 0
    for start in range(0, values.size, CHUNK):
        part = values[start : start + CHUNK]
        chunk = buffer[: part.size]
        chunk[:] = part
        clipped += _clip(chunk, value_range)
        chunk *= per_unit
        if dither is None:
            np.rint(chunk, out=chunk)
        else:
            chunk += dither.uniform(start // CHUNK, chunk.size)
            np.floor(chunk, out=chunk)
            np.clip(chunk, -top, top, out=chunk)  # the last digit of a sum may lift one past it
        signed = ring[start : start + CHUNK].view(np.int32)
        np.copyto(signed, chunk, casting="unsafe")  # whole numbers within ±top by now
    return ring, clipped


def _clip(chunk: npt.NDArray[np.float64], limit: float) -> int:
    """Clip `chunk` to ±limit in place; returns how many lay outside. Refuses non-finite."""
    low, high = float(chunk.min()), float(chunk.max())  # either is NaN if one coordinate is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("values: not finite; training diverged, nothing was encoded")
    if -limit <= low and high <= limit:
        return 0
    outside = int(np.count_nonzero(np.abs(chunk) > limit))
    np.clip(chunk, -limit, limit, out=chunk)
    return outside


class _Dither:
    """Uniform numbers in [0, 1), multiples of 2^-32, from a cipher's key stream."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._stream = KeyStream()
        self._buffer = np.empty(CHUNK, np.float64)

    def uniform(self, chunk: int, count: int) -> npt.NDArray[np.float64]:
        """Those of that chunk, float64 (count,); good until the next call."""
        words = self._stream.words(self._key, chunk, count)
        return np.multiply(words, 2.0**-32, out=self._buffer[:count])


def decode_sum(
    ring: Ring, *, bits: int, value_range: float, ring_bits: int = 32, sites: int | None = None
) -> npt.NDArray[np.float64]:
    """The sum of encoded vectors over Z_{2^ring_bits} as float64, shape (d,).

    Bits of a word above `ring_bits` mean nothing. With `sites`, raises RoundFailed if a
    coordinate lies outside what that many honest vectors can add up to: masks that did not
    cancel show here.
    """
    step = encoding_step(bits=bits, value_range=value_range)
    bound = None if sites is None else sites * largest(bits)
    unused = 32 - ring_bits
    values = np.empty(ring.size, np.float64)
    for start in range(0, ring.size, CHUNK):
        words = np.ascontiguousarray(ring[start : start + CHUNK], np.uint32)
        signed = (words << unused).view(np.int32) >> unused  # copies bit ring_bits - 1 upwards
        if bound is not None and (int(signed.max()) > bound or int(signed.min()) < -bound):
            raise RoundFailed(
                f"the sum lies outside what {sites} sites can add up to; discard it and run the "
                "round again"
            )
        np.multiply(signed, step, out=values[start : start + CHUNK])
    return values


def encode_counts(counts: npt.NDArray[Any], *, maximum: int = COUNT_LIMIT) -> Ring:
    """Whole numbers in 0..maximum (weights, histograms) as a ring vector; never clipped.

    Raises ValueError for another dtype or a count out of bounds.
    """
    if counts.ndim != 1 or counts.dtype.kind not in "iu":
        raise ValueError(f"counts: got {counts.dtype}{counts.shape}, need a flat integer vector")
    if counts.size and (int(counts.min()) < 0 or int(counts.max()) > maximum):
        raise ValueError(f"counts: one lies outside 0 to {maximum}; raise the plan's maximum")
    return counts.astype(np.uint32)


def decode_counts(ring: Ring) -> npt.NDArray[np.int64]:
    """A sum of counts as int64; exact while the true sum is below 2^32."""
    return ring.astype(np.int64)
