"""GroupNorm, exact but for its inverse root: (x - mean) / sqrt(variance + eps), without weights.

One opening of x gives x itself, its sum and the sum of its squares: from z and the dealer's shares
of the masks, their sums of squares and their products, x^2 and later x / sqrt(variance) are linear.
So the openings are: x; the sums; the variance (with its comparisons); the inverse root.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from primia.inference.bits import Words
from primia.inference.correlations import Dealer, Party, Shape
from primia.inference.messages import Step
from primia.inference.ops.compare import bit_length, log2_ceil
from primia.inference.ops.opening import (
    MAX_BITS,
    Opened,
    deal_mask,
    deal_rho,
    deal_truncate,
    open_values,
    take_rho,
    top_type,
)
from primia.inference.ops.segments import Table, curve, deal_segments, segments, table
from primia.inference.prg import Unsigned

KNOTS = 256
MEAN_SHIFT = 32
ROOT_SHIFT = 32  # the shifts of two opened values that are multiplied may add up to 64 at most
Received = bytes | bytearray | memoryview


@dataclass(frozen=True)
class NormNumbers:
    """Public constants of one norm: x has `shift` more fraction bits than F.

    parts: into how many runs a group is cut so that no sum of squares leaves the ring.
    mean_factor: 2^32 / n. square_shift, square_factor: a run's sum of squares is truncated, then
    multiplied, which gives its part of the mean square with variance_scale fraction bits.
    lift: by how many bits the square of the mean, at 2F, goes up to that.
    """

    shift: int
    parts: int
    mean_factor: int
    square_shift: int
    square_factor: int
    variance_scale: int
    lift: int
    root_scale: int
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
        table=segments_of_root,
    )


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def deal_norm(dealer: Dealer, label: str, groups: Shape, count: int, numbers: NormNumbers) -> None:
    """For `norm` of values (*groups, count)."""
    total = int(np.prod(groups))
    x, mean, root = _Dealt(), _Dealt(), _Dealt()
    shape = (total, count)
    x.deal(dealer, f"{label}/x", shape, numbers.shift)
    squares = (x.high * x.high).reshape(total, numbers.parts, -1).sum(axis=2, dtype=np.uint64)
    dealer.give(f"{label}/x/squares", squares)
    if numbers.shift:
        dealer.give(f"{label}/x/high-top", (x.high * x.top).astype(top_type(numbers.shift)))
    mean.deal(dealer, f"{label}/mean", (total,), MEAN_SHIFT)
    dealer.give(f"{label}/mean/square", mean.high * mean.high)
    dealer.give(f"{label}/mean/high-top", (mean.high * mean.top).astype(top_type(MEAN_SHIFT)))
    if numbers.square_shift:
        deal_truncate(dealer, f"{label}/squares", (total, numbers.parts), numbers.square_shift)
    deal_segments(dealer, f"{label}/root", total, numbers.table)
    root.deal(dealer, f"{label}/inverse", (total,), ROOT_SHIFT)
    _deal_product(dealer, f"{label}/x-inverse", x, root)
    _deal_product(dealer, f"{label}/mean-inverse", mean, root)


class _Dealt:
    """A mask as the dealer knows it: r >> shift and its top bit."""

    high: Words
    top: Words
    shift: int

    def deal(self, dealer: Dealer, label: str, shape: Shape, shift: int) -> None:
        r = deal_mask(dealer, label, shape)
        deal_rho(dealer, f"{label}/rho", r, shift)
        self.high, self.top, self.shift = r >> np.uint64(shift), r >> np.uint64(63), shift


def _deal_product(dealer: Dealer, label: str, a: _Dealt, b: _Dealt) -> None:
    high, top = b.high, b.top
    if a.high.ndim == 2:
        high, top = high[:, None], top[:, None]
    dealer.give(f"{label}/high-high", a.high * high)
    if a.shift:
        dealer.give(f"{label}/top-high", (a.top * high).astype(top_type(a.shift)))
    dealer.give(f"{label}/high-top", (a.high * top).astype(top_type(b.shift)))


@dataclass(frozen=True)
class _Masked:
    """An opened value and a party's share of its rho; value = zt - rho."""

    opened: Opened
    rho: Words

    def share(self, party: Party) -> Words:
        value = np.negative(self.rho)
        if party.role == 0:
            value += self.opened.zt
        return value


def norm(
    party: Party, label: str, share: Words, numbers: NormNumbers, eps: float
) -> Generator[Step, Received, Words]:
    """Shares of the normalised values (groups, count), F + root_scale fraction bits."""
    (z,) = yield from open_values(party, [(f"{label}/x", share)])
    x = _masked(party, f"{label}/x", z, numbers.shift)
    sums = x.share(party).sum(axis=1, dtype=np.uint64) * np.uint64(numbers.mean_factor)
    squares = _sums_of_squares(party, f"{label}/x", x, numbers)
    opened = yield from open_values(
        party,
        [(f"{label}/mean", sums), (f"{label}/squares", squares)][: 1 + (numbers.square_shift > 0)],
    )
    mean = _masked(party, f"{label}/mean", opened[0], MEAN_SHIFT)
    mean_square = _mean_square(party, f"{label}/mean", mean)
    if numbers.square_shift:
        value = Opened(opened[1], numbers.square_shift)
        squares = np.negative(take_rho(party, f"{label}/squares/rho", value))
        if party.role == 0:
            squares += value.zt
    variance = squares.sum(axis=1, dtype=np.uint64) * np.uint64(numbers.square_factor)
    variance -= mean_square << np.uint64(numbers.lift)
    if party.role == 0:
        variance += np.uint64(round(eps * (1 << numbers.variance_scale)))
    wide_root = yield from segments(party, f"{label}/root", variance, numbers.table)
    (z,) = yield from open_values(party, [(f"{label}/inverse", wide_root)])
    root = _masked(party, f"{label}/inverse", z, ROOT_SHIFT)
    out = _product(party, f"{label}/x-inverse", x, root)
    out -= _product(party, f"{label}/mean-inverse", mean, root)[:, None]
    return out


def _masked(party: Party, label: str, z: Words, shift: int) -> _Masked:
    opened = Opened(z, shift)
    return _Masked(opened, take_rho(party, f"{label}/rho", opened))


def _sums_of_squares(party: Party, label: str, x: _Masked, numbers: NormNumbers) -> Words:
    """The share of the sum of x^2 over each run: zt^2 - 2 zt rho + rho^2.

    rho^2 = high^2 - 2 w high top 2^(64 - shift); the square of the last term is 0 modulo 2^64.
    """
    zt = x.opened.zt
    total, runs = zt.shape[0], numbers.parts
    squares = party.share(f"{label}/squares", (total, runs)).copy()
    inner = x.rho * zt
    if numbers.shift:
        top = party.share(f"{label}/high-top", zt.shape, top_type(numbers.shift))
        inner += x.opened.wrap_term(top)
    inner <<= np.uint64(1)
    if party.role == 0:
        inner -= zt * zt
    squares -= inner.reshape(total, runs, -1).sum(axis=2, dtype=np.uint64)
    return squares


def _mean_square(party: Party, label: str, mean: _Masked) -> Words:
    zt = mean.opened.zt
    square = party.share(f"{label}/square", zt.shape).copy()
    top = party.share(f"{label}/high-top", zt.shape, top_type(MEAN_SHIFT))
    square -= (mean.rho * zt + mean.opened.wrap_term(top)) << np.uint64(1)
    if party.role == 0:
        square += zt * zt
    return square


def _product(party: Party, label: str, a: _Masked, b: _Masked) -> Words:
    """The share of a b, for one b a row of a.

    rho_a rho_b: of its four terms the one with both top bits is 0 modulo 2^64, as the shifts add
    up to at most 64.
    """
    a_zt, b_zt, b_rho, b_wraps = a.opened.zt, b.opened.zt, b.rho, b.opened.wraps
    if a_zt.ndim == 2:
        b_zt, b_rho, b_wraps = b_zt[:, None], b_rho[:, None], b_wraps[:, None]
    out = party.share(f"{label}/high-high", a_zt.shape).copy()
    if a.opened.shift:
        out -= a.opened.wrap_term(
            party.share(f"{label}/top-high", a_zt.shape, top_type(a.opened.shift))
        )
    top: Unsigned = party.share(f"{label}/high-top", a_zt.shape, top_type(b.opened.shift))
    term = top.astype(np.uint64)
    term <<= np.uint64(64 - b.opened.shift)
    term *= b_wraps
    out -= term
    out -= a.rho * b_zt
    term = a_zt * b_rho
    out -= term
    if party.role == 0:
        out += a_zt * b_zt
    return out
