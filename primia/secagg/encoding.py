"""Real numbers and counts as elements of Z_{2^32}, so that sums survive the masks exactly.

Updates are signed fixed point: a value in ±range becomes one of 2^bits - 1 integers, written in
two's complement. Sums wrap modulo 2^32 and are read back as signed, which is exact as long as
the true sum fits: `fits` says for how many sites that is proved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from primia.errors import RoundFailed
from primia.types import Ring

COUNT_LIMIT = 2**25
"""Largest single count: 100 of them still add up below 2^32."""

_CHUNK = 1 << 16  # coordinates; temporaries stay in cache, 3x faster than whole-vector passes


def largest(bits: int) -> int:
    """The largest integer that one encoded coordinate takes; the smallest is its negative."""
    if not 2 <= bits <= 32:
        raise ValueError(f"bits: got {bits}, need 2 to 32")
    return int(2 ** (bits - 1)) - 1


def encoding_step(*, bits: int, value_range: float) -> float:
    """Distance between two neighbouring encoded values; rounding errs by half of it at most."""
    if not 0 < value_range < float("inf"):
        raise ValueError(f"value_range: got {value_range}, need a finite number above 0")
    return value_range / largest(bits)


def fits(*, bits: int, sites: int) -> bool:
    """Whether the sum over `sites` encoded vectors can never leave the signed 32-bit range.

    Each coordinate is at most 2^(bits-1) - 1 in size, so the sum is at most sites times that.
    """
    return sites * largest(bits) <= 2**31 - 1


def encode(
    values: npt.NDArray[np.float32] | npt.NDArray[np.float64], *, bits: int, value_range: float
) -> tuple[Ring, int]:
    """Fixed-point form of `values` (shape (d,)), clipped to ±value_range, rounded to nearest.

    Returns the ring vector (uint32, shape (d,)) and how many coordinates were clipped.
    Raises ValueError for non-finite values or another shape or dtype.
    """
    if values.ndim != 1 or values.dtype not in (np.float32, np.float64):
        raise ValueError(f"values: got {values.dtype}{values.shape}, need a flat float vector")
    per_unit = 1.0 / encoding_step(bits=bits, value_range=value_range)
    ring = np.empty(values.size, np.uint32)
    clipped = 0
    for start in range(0, values.size, _CHUNK):
        chunk = values[start : start + _CHUNK].astype(np.float64)
        if not np.isfinite(chunk).all():
            raise ValueError("values: not finite; training diverged, nothing was encoded")
        clipped += int(np.count_nonzero(np.abs(chunk) > value_range))
        np.clip(chunk, -value_range, value_range, out=chunk)
        chunk *= per_unit
        np.rint(chunk, out=chunk)
        ring[start : start + _CHUNK] = chunk.astype(np.int32).view(np.uint32)
    return ring, clipped


def decode_sum(
    ring: Ring, *, bits: int, value_range: float, sites: int | None = None
) -> npt.NDArray[np.float64]:
    """The sum of encoded vectors as float64, shape (d,).

    With `sites`, raises RoundFailed if a coordinate lies outside what that many honest vectors
    can add up to: masks that did not cancel show here.
    """
    signed = np.ascontiguousarray(ring, np.uint32).view(np.int32)
    if sites is not None:
        bound = sites * largest(bits)
        if signed.size and (int(signed.max()) > bound or int(signed.min()) < -bound):
            raise RoundFailed(
                f"the sum lies outside what {sites} sites can add up to; discard it and run the "
                "round again"
            )
    return signed.astype(np.float64) * encoding_step(bits=bits, value_range=value_range)


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
