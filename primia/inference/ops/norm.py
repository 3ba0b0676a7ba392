"""GroupNorm, exact but for its inverse root: weight (x - mean) / sqrt(variance + eps), less bias.

One opening of x gives x itself, its sum and the sum of its squares: from z and the dealer's shares
of the masks, their sums of squares and their products, x^2 and later x times a factor are linear.
So the openings are: x; the sums; the variance (with its comparisons); the inverse root; and its
product with the weight, one value a channel. The weight is the model party's, clear, as in
`weighted`, but no message is needed: what the data party holds of the root is from its seed, so the
dealer knows it but for the public bit w.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from primia.inference.bits import Words
from primia.inference.correlations import Dealer, Party, Shape
from primia.inference.messages import Step
from primia.inference.ops.norm_numbers import (
    FACTOR_SHIFT,
    MEAN_SHIFT,
    ROOT_SHIFT,
    NormNumbers,
)
from primia.inference.ops.opening import (
    Opened,
    deal_mask,
    deal_rho,
    deal_truncate,
    open_values,
    take_rho,
    top_type,
)
from primia.inference.ops.segments import deal_segments, segments
from primia.inference.prg import Unsigned

Received = bytes | bytearray | memoryview


def deal_norm(
    dealer: Dealer, label: str, groups: Shape, count: int, numbers: NormNumbers, mask: Words
) -> None:
    """For `norm` of values (*groups, count). mask: B of the weight, one word a channel."""
    total = int(np.prod(groups))
    x, mean, factor = _Dealt(), _Dealt(), _Dealt()
    b = _by_channel(mask, groups)
    x.deal(dealer, f"{label}/x", (b.size, total * count // b.size), numbers.shift)
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
    _deal_factor(dealer, f"{label}/inverse", b)
    factor.deal(dealer, f"{label}/factor", (b.size,), FACTOR_SHIFT)
    mean.repeat(b.shape[1])
    _deal_product(dealer, f"{label}/x-factor", x, factor)
    _deal_product(dealer, f"{label}/mean-factor", mean, factor)


def _by_channel(weight: Words, groups: Shape) -> Words:
    """A weight of each channel as (all groups of all films, channels of a group)."""
    films, in_film = groups
    return np.tile(weight.reshape(in_film, -1), (films, 1))


def _deal_factor(dealer: Dealer, label: str, b: Words) -> None:
    """For `_factor`: the root's rho, and B times the data party's share of it."""
    r = deal_mask(dealer, label, b.shape[:1])
    high = dealer.give_kept(f"{label}/rho/high", r >> np.uint64(ROOT_SHIFT))
    top = dealer.give_kept(f"{label}/rho/top", (r >> np.uint64(63)).astype(top_type(ROOT_SHIFT)))
    dealer.give(f"{label}/masked/high", b * high[:, None])
    product = b * top.astype(np.uint64)[:, None]
    dealer.give(f"{label}/masked/top", product.astype(top_type(ROOT_SHIFT)))


class _Dealt:
    """A mask as the dealer knows it: r >> shift and its top bit."""

    high: Words
    top: Words
    shift: int

    def repeat(self, times: int) -> None:
        """Each so many times in a row."""
        self.high, self.top = self.high.repeat(times), self.top.repeat(times)

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

    def repeat(self, times: int) -> _Masked:
        """Each value so many times in a row."""
        z = self.opened.z.repeat(times)
        return _Masked(Opened(z, self.opened.shift), self.rho.repeat(times))


def norm(
    party: Party,
    label: str,
    share: Words,
    numbers: NormNumbers,
    eps: float,
    weight: Words,
    films: int = 1,
) -> Generator[Step, Received, Words]:
    """Shares of the weighted values, F + factor_scale fraction bits, from (all groups, count).

    weight: W at the model party, V at the data party. The result is (all channels, pixels).
    """
    total = len(share)
    weights = _by_channel(weight, (films, total // films))
    (z,) = yield from open_values(party, [(f"{label}/x", share.reshape(weights.size, -1))])
    x = _masked(party, f"{label}/x", z, numbers.shift)
    sums = x.share(party).reshape(total, -1).sum(axis=1, dtype=np.uint64)
    sums *= np.uint64(numbers.mean_factor)
    squares = _sums_of_squares(party, f"{label}/x", x, total, numbers)
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
    wide = _factor(party, f"{label}/inverse", root, weights).reshape(-1)
    (z,) = yield from open_values(party, [(f"{label}/factor", wide)])
    factor = _masked(party, f"{label}/factor", z, FACTOR_SHIFT)
    out = _product(party, f"{label}/x-factor", x, factor)
    mean = mean.repeat(weights.shape[1])
    out -= _product(party, f"{label}/mean-factor", mean, factor)[:, None]
    return out


def _factor(party: Party, label: str, root: _Masked, weight: Words) -> Words:
    """The share of W root, from W = V + B: V rho0 + B rho0 + W rho1 is W rho."""
    opened = Opened(root.opened.z[:, None], ROOT_SHIFT)
    high = party.share(f"{label}/masked/high", weight.shape)
    out = opened.rho(high, party.share(f"{label}/masked/top", weight.shape, top_type(ROOT_SHIFT)))
    out = np.negative(out + weight * root.rho[:, None])
    if party.role == 1:
        out += weight * opened.zt
    return out


def _masked(party: Party, label: str, z: Words, shift: int) -> _Masked:
    opened = Opened(z, shift)
    return _Masked(opened, take_rho(party, f"{label}/rho", opened))


def _sums_of_squares(
    party: Party, label: str, x: _Masked, total: int, numbers: NormNumbers
) -> Words:
    """The share of the sum of x^2 over each run: zt^2 - 2 zt rho + rho^2.

    rho^2 = high^2 - 2 w high top 2^(64 - shift); the square of the last term is 0 modulo 2^64.
    """
    zt = x.opened.zt
    runs = numbers.parts
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
