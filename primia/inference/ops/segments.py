"""A function of one secret value, by straight segments between public knots.

The value is opened once and compared with every knot: one mask r for all, but fresh masks in the
gates. Each comparison adds the change of slope and intercept at its knot, so outside the knots
the function is held at its ends. All numbers of a table are integers of decimal arithmetic: the
two parties' tables must agree to the last unit, and `math.exp` differs between machines.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from functools import lru_cache
from itertools import pairwise

import numpy as np

from primia.inference.bits import Words, unpack, words
from primia.inference.correlations import Dealer, Party, Shape
from primia.inference.messages import Step, exchange
from primia.inference.ops.compare import (
    MAX_BLOCKS,
    Window,
    bit_length,
    deal_signs,
    signs,
)
from primia.inference.ops.opening import (
    MAX_BITS,
    Opened,
    deal_mask,
    deal_rho,
    open_values,
    take_rho,
)

Received = bytes | bytearray | memoryview
_CONTEXT = Context(prec=40)


@dataclass(frozen=True)
class Table:
    """Knots at the value's own scale, slopes and intercepts as changes at each knot.

    The result is `start` plus, at every knot not above the value, slope * v + intercept, v being
    the value >> shift; it has `scale` fraction bits.
    """

    knots: tuple[int, ...]
    slopes: tuple[int, ...]
    intercepts: tuple[int, ...]
    start: int
    shift: int
    scale: int
    window: Window


def table(
    points: Sequence[tuple[Decimal, Decimal]],
    *,
    bound: float,
    value_scale: int,
    narrow_scale: int,
    scale: int,
    resolution: float,
) -> Table:
    """The segments between these points (x, f(x)), x rising, for values up to `bound`.

    value_scale, narrow_scale: fraction bits of the value when opened and when multiplied.
    resolution: how far from its knot a comparison may decide.
    Raises ValueError when the range does not fit.
    """
    top = bit_length(2 * bound, value_scale)
    low = max(0, math.frexp(resolution)[1] - 1 + value_scale)
    blocks = -(-max(1, top - low) // 4)
    if blocks > MAX_BLOCKS or top >= MAX_BITS:
        raise ValueError(f"values up to {bound:.4g} by steps of {resolution:.2g} need over 48 bits")
    low = max(0, top - 4 * blocks)
    unit = Decimal(1 << low)
    with localcontext(_CONTEXT):
        knots = [int((x * (1 << value_scale) / unit).to_integral_value()) << low for x, _ in points]
        lines = [(0, _whole(points[0][1], scale))]
        for (x0, f0), (x1, f1) in pairwise(points):
            slope = _whole((f1 - f0) / (x1 - x0), scale - narrow_scale)
            # The intercept makes up for the rounding of the slope in the middle.
            middle = (f0 + f1) / 2 * (1 << scale)
            middle -= slope * (x0 + x1) / 2 * (1 << narrow_scale)
            lines.append((slope, int(middle.to_integral_value())))
        lines.append((0, _whole(points[-1][1], scale)))
    changes = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(lines)]
    return Table(
        knots=tuple(knots),
        slopes=tuple(c[0] for c in changes),
        intercepts=tuple(c[1] for c in changes),
        start=lines[0][1],
        shift=value_scale - narrow_scale,
        scale=scale,
        window=Window(low, blocks),
    )


def _whole(value: Decimal, scale: int) -> int:
    return int((value * (1 << scale)).to_integral_value())


@lru_cache(maxsize=64)
def curve(name: str, low: float, high: float, count: int) -> tuple[tuple[Decimal, Decimal], ...]:
    """`count` points of "inverse-root", "exp" or "tanh" from low to high, for `table`.

    The points lie so that the error is even: relative for the first two, absolute for tanh.
    """
    with localcontext(_CONTEXT):
        first, last = Decimal(low), Decimal(high)
        if name == "tanh":
            return _even_tanh(first, last, count)
        # A chord lies above a convex curve; points lower by half the gap halve the error.
        if name == "inverse-root":
            step = (last / first).ln() / (count - 1)
            lower = 1 - step * step * 3 / 64
            xs = [first * (step * i).exp() for i in range(count)]
            return tuple((x, lower / x.sqrt()) for x in xs)
        step = (last - first) / (count - 1)
        lower = 1 - step * step / 16
        return tuple((x, lower * x.exp()) for x in (first + step * i for i in range(count)))


def _even_tanh(first: Decimal, last: Decimal, count: int) -> tuple[tuple[Decimal, Decimal], ...]:
    """A chord's error is its length squared times the curvature: equal steps of its root."""
    fine = 40 * count
    points: list[tuple[Decimal, Decimal]] = []
    passed = [Decimal(0)]
    for i in range(fine + 1):
        x = first + (last - first) * i / fine
        y = 1 - 2 / ((2 * x).exp() + 1)
        points.append((x, y))
        passed.append(passed[-1] + abs(y * (1 - y * y)).sqrt())
    chosen = [points[0]]
    for i, point in enumerate(points[:-1]):
        if passed[i + 1] * (count - 1) >= passed[-1] * len(chosen):
            chosen.append(point)
    return (*chosen[: count - 1], points[-1])


def deal_steps(dealer: Dealer, label: str, shape: Shape, window: Window, count: int) -> Words:
    """For `steps`; returns the value's mask r."""
    r = deal_mask(dealer, label, shape)
    deal_signs(dealer, label, r, window, (count,))
    return r


def steps(
    party: Party, label: str, share: Words, window: Window, knots: Sequence[int]
) -> Generator[Step, Received, tuple[Words, Words]]:
    """The opened z (n,), and shares of the planes (knots, words(n)) of value >= knot."""
    (z,) = yield from open_values(party, [(label, share)])
    shifted = z - np.array(knots, np.int64).astype(np.uint64)[:, None]
    reached = yield from signs(party, label, shifted, window, share.shape)
    return z, reached


def deal_segments(dealer: Dealer, label: str, count: int, table: Table) -> None:
    """For `segments` of `count` values."""
    knots = len(table.knots)
    r = deal_steps(dealer, label, (count,), table.window, knots)
    planes = dealer.mask_bits(f"{label}/beta", (knots, words(count)))
    beta = unpack(planes, count).astype(np.uint64)
    dealer.give(f"{label}/beta", beta)
    deal_rho(dealer, f"{label}/rho", r, table.shift)
    deal_rho(dealer, f"{label}/beta-rho", np.broadcast_to(r, beta.shape), table.shift, times=beta)


def segments(
    party: Party, label: str, share: Words, table: Table
) -> Generator[Step, Received, Words]:
    """Shares of the function of flat values (n,), with `table.scale` fraction bits."""
    z, reached = yield from steps(party, label, share, table.window, table.knots)
    shape = (len(table.knots), share.size)
    reached = reached ^ party.mask(f"{label}/beta", reached.shape)
    (theirs,) = yield from exchange([reached])
    c = unpack(reached ^ theirs, share.size).astype(np.uint64)
    value = Opened(z, table.shift)
    beta = party.share(f"{label}/beta", shape)
    v = np.negative(take_rho(party, f"{label}/rho", value))
    if party.role == 0:
        v += value.zt
    beta_v = beta * value.zt - take_rho(party, f"{label}/beta-rho", value, shape)
    # With bit b = c + (1 - 2c) beta, the sum of (slope v + intercept) b over all knots.
    slope = _column(table.slopes)
    intercept = _column(table.intercepts)
    sign = np.uint64(1) - c - c
    out: Words = (sign * (slope * beta_v + intercept * beta)).sum(axis=0, dtype=np.uint64)
    out += (c * slope).sum(axis=0, dtype=np.uint64) * v
    if party.role == 0:
        out += (c * intercept).sum(axis=0, dtype=np.uint64)
        out += np.array([table.start], np.int64).astype(np.uint64)
    return out


def _column(values: Sequence[int]) -> Words:
    return np.array([v & ((1 << 64) - 1) for v in values], np.uint64)[:, None]


TANH_KNOTS = 64
_TANH_END = 5.0


def tanh_table(bound: float, value_scale: int, f: int) -> Table:
    """tanh of values up to `bound`, held at +-0.9999 from 5 on."""
    return table(
        curve("tanh", -_TANH_END, _TANH_END, TANH_KNOTS),
        bound=max(bound, _TANH_END),
        value_scale=value_scale,
        narrow_scale=f,
        scale=2 * f,
        resolution=2.0**-8,
    )
