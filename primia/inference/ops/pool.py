"""Pools: maxima by comparisons, one direction after the other; averages by sums alone."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from primia.inference.bits import Words
from primia.inference.correlations import Dealer, Party, Shape
from primia.inference.messages import Step
from primia.inference.operations import AvgPool2d, MaxPool2d
from primia.inference.ops.rectify import Comparison, deal_rectify, rectify

Received = bytes | bytearray | memoryview


def deal_max_pool(
    dealer: Dealer, label: str, op: MaxPool2d, shape: Shape, shift: int, how: Comparison
) -> None:
    """For `max_pool` of values of that shape (n, channels, height, width)."""
    for axis in (3, 2):
        side = (shape[axis] + 2 * op.padding - op.kernel) // op.stride + 1
        shape = (*shape[:axis], side, *shape[axis + 1 :])
        for level, pairs in enumerate(_levels(op.kernel)):
            count = pairs * int(np.prod(shape))
            deal_rectify(dealer, f"{label}/{axis}.{level}", count, shift, how)


def max_pool(
    party: Party,
    label: str,
    op: MaxPool2d,
    share: Words,
    lowest: int,
    shift: int,
    how: Comparison,
) -> Generator[Step, Received, Words]:
    """Shares of the maxima, as wide as the values were.

    lowest: what no value is under, for the padding; how: for differences, which are `shift` bits
    wider than needed. Rows first, then columns of what is left: 3x3 takes 4 comparisons, not 8.
    """
    edge = np.uint64(lowest % (1 << 64)) * np.uint64(party.role == 0)
    for axis in (3, 2):
        if op.padding:
            margins = [(0, 0)] * 4
            margins[axis] = (op.padding, op.padding)
            share = np.pad(share, margins, constant_values=edge)
        share = yield from _maxima(party, f"{label}/{axis}", op, share, axis, shift, how)
    return share


def _maxima(
    party: Party, label: str, op: MaxPool2d, share: Words, axis: int, shift: int, how: Comparison
) -> Generator[Step, Received, Words]:
    side = (share.shape[axis] - op.kernel) // op.stride + 1
    places = [slice(None)] * 4
    parts: list[Words] = []
    for start in range(op.kernel):
        places[axis] = slice(start, start + (side - 1) * op.stride + 1, op.stride)
        parts.append(share[tuple(places)])
    for level, pairs in enumerate(_levels(op.kernel)):
        second = np.stack(parts[1 : 2 * pairs : 2])
        difference = np.stack(parts[0 : 2 * pairs : 2]) - second
        # max(a, b) = b + relu(a - b)
        more = yield from rectify(party, f"{label}.{level}", difference.reshape(-1), shift, how)
        more <<= np.uint64(shift)
        second += more.reshape(second.shape)
        parts = [*second, *parts[2 * pairs :]]
    return np.ascontiguousarray(parts[0])


def _levels(count: int) -> list[int]:
    """How many pairs are compared at a time until one of `count` is left."""
    found: list[int] = []
    while count > 1:
        found.append(count // 2)
        count -= count // 2
    return found


def average_pool(op: AvgPool2d, share: Words, factor: int) -> Words:
    """The share of the sums under the window, times a public factor; padding counts as zeros."""
    if op.padding:
        margin = (op.padding, op.padding)
        share = np.pad(share, [(0, 0), (0, 0), margin, margin])
    for axis in (3, 2):
        side = (share.shape[axis] - op.kernel) // op.stride + 1
        places = [slice(None)] * 4
        total: Words | None = None
        for start in range(op.kernel):
            places[axis] = slice(start, start + (side - 1) * op.stride + 1, op.stride)
            part = share[tuple(places)]
            total = part.copy() if total is None else np.add(total, part, out=total)
        assert total is not None
        share = total
    share *= np.uint64(factor)
    return share
