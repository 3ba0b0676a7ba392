"""The public constants of a norm: at which scales its sums, variance and inverse root are held."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from primia.inference.ops.compare import bit_length, log2_ceil
from primia.inference.ops.opening import MAX_BITS
from primia.inference.ops.segments import Table, curve, table

KNOTS = 256
MEAN_SHIFT = 32
ROOT_SHIFT = 32
FACTOR_SHIFT = 12  # of two opened values that are multiplied the shifts add up to 64 at most


@dataclass(frozen=True)
class NormNumbers:
    """Public constants of one norm: x has `shift` more fraction bits than F.

    parts: into how many runs a group is cut so that no sum of squares leaves the ring.
    mean_factor: 2^32 / n. square_shift, square_factor: a run's sum of squares is truncated, then
    multiplied, which gives its part of the mean square with variance_scale fraction bits.
    lift: by how many bits the square of the mean, at 2F, goes up to that.
    root_scale, factor_scale: fraction bits of the inverse root, and of weight times that.
    """

    shift: int
    parts: int
    mean_factor: int
    square_shift: int
    square_factor: int
    variance_scale: int
    lift: int
    root_scale: int
    factor_scale: int
    table: Table


@lru_cache(maxsize=256)
def norm_numbers(
    count: int, bound: float, low: float, high: float, scale: int, f: int
) -> NormNumbers:
    """For groups of `count` values up to `bound`, variance + eps from low to high.

    Raises ValueError when the range does not fit.
    """
    high = max(2 * low, min(high, bound * bound))  # no variance is larger
    squares = 2 * bit_length(bound, 0)
    if bit_length(bound, 0) + f + MEAN_SHIFT >= MAX_BITS - 1 or squares > MAX_BITS - 2 - 2 * f:
        raise ValueError(f"values up to {bound:.4g} are too large for a norm")
    variance_scale = min(48, MAX_BITS - 2 - squares)  # a difference of two has one bit more
    log_count = count.bit_length() - 1
    # The sum of squares of a run stays under 2^61.
    run = 1 << max(0, MAX_BITS - 1 - squares - 2 * f)
    parts = 1
    while count // parts > run or count % parts:
        parts += 1
    square_shift = max(0, 12 + log_count - (parts - 1).bit_length())
    square_scale = variance_scale - (2 * f - square_shift)
    log_low, log_high = log2_ceil(low), log2_ceil(high)
    root_scale = 16 + max(0, -(-(log_high - 8) // 2))
    scale_out = root_scale + ROOT_SHIFT
    narrow_scale = max(
        f, min(variance_scale, 13 - log_low, scale_out - 5 - (3 * max(0, log_high)) // 2)
    )
    segments_of_root = table(
        curve("inverse-root", low, high, KNOTS),
        bound=max(bound * bound, high),
        value_scale=variance_scale,
        narrow_scale=narrow_scale,
        scale=scale_out,
        resolution=low / 32,
    )
    return NormNumbers(
        shift=scale - f,
        parts=parts,
        mean_factor=_rounded(1 << MEAN_SHIFT, count),
        square_shift=square_shift,
        square_factor=_rounded(1 << square_scale, count),
        variance_scale=variance_scale,
        lift=variance_scale - 2 * f,
        root_scale=root_scale,
        factor_scale=root_scale + f - FACTOR_SHIFT,
        table=segments_of_root,
    )


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def root_fits(weight: float, low: float, numbers: NormNumbers, f: int) -> bool:
    """Whether a weight of that size, times the largest inverse root, can be opened."""
    return bit_length(weight / low**0.5, numbers.root_scale + f) < MAX_BITS
