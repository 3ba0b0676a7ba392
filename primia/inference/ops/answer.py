"""What the data party may learn of the logits: the class, rounded probabilities, or (tests) all.

The model party sends its shares of the answer at the very end and learns nothing. A share of a bit
says nothing but the bit: the other share is the data party's own.
"""

from __future__ import annotations

from collections.abc import Generator
from decimal import Decimal
from itertools import combinations, permutations

import numpy as np

from primia.inference.bits import Words, unpack, words
from primia.inference.correlations import Dealer, Party, constant_one
from primia.inference.messages import Prediction, Step, receive, send
from primia.inference.ops.compare import Window, bit_length, deal_signs, signs
from primia.inference.ops.gates import conjunction, deal_conjunction
from primia.inference.ops.opening import deal_mask, open_values
from primia.inference.ops.segments import (
    Table,
    curve,
    deal_segments,
    deal_steps,
    segments,
    steps,
    table,
)
from primia.inference.ring import decode

LEVELS = 20  # probabilities are multiples of 1 / LEVELS
MAX_PROBABILITY_CLASSES = 32  # every pair of classes costs EXP_KNOTS comparisons
EXP_KNOTS = 128
_LOWEST, _HIGHEST = -9.0, 4.0  # exp(4) > 1 / 0.025 - 1: beyond, the probability rounds to 0
_SUM_SCALE = 32
Received = bytes | bytearray | memoryview


def answer_logits(
    party: Party, share: Words, scale: int
) -> Generator[Step, Received, Prediction | None]:
    """The logits themselves, shares (films, classes)."""
    theirs = yield from _reveal(party, share)
    if theirs is None:
        return None
    return Prediction("logits", decode(share + theirs, scale))


def deal_class(dealer: Dealer, label: str, films: int, classes: int, near: Window) -> None:
    """For `answer_class`."""
    pairs = classes * (classes - 1) // 2
    deal_signs(dealer, label, deal_mask(dealer, label, (pairs, films)), near)
    deal_conjunction(dealer, f"{label}/first", classes - 1, (classes, words(films)))


def answer_class(
    party: Party, label: str, share: Words, near: Window
) -> Generator[Step, Received, Prediction | None]:
    """The largest of narrow logits (films, classes), all pairs compared to the last bit."""
    films, classes = share.shape
    pairs = list(combinations(range(classes), 2))
    first, second = np.array(pairs).T
    difference = np.ascontiguousarray((share[:, first] - share[:, second]).T)
    (z,) = yield from open_values(party, [(label, difference)])
    not_less = yield from signs(party, label, z, near)
    wins: list[list[Words]] = [[] for _ in range(classes)]
    for (a, b), bit in zip(pairs, not_less, strict=True):
        wins[a].append(bit)
        wins[b].append(bit ^ constant_one(party))
    columns = [np.stack(column) for column in zip(*wins, strict=True)]
    best = yield from conjunction(party, f"{label}/first", columns)
    theirs = yield from _reveal(party, best)
    if theirs is None:
        return None
    return Prediction("class", unpack(best ^ theirs, films).T.astype(np.float64))


def class_window(bound: float, scale: int) -> Window:
    """A window over every bit of a difference of two logits: ties are real ones."""
    return Window(0, -(-bit_length(2 * bound, scale) // 4))


def exp_table(bound: float, scale: int) -> Table:
    """exp of differences of logits."""
    return table(
        curve("exp", _LOWEST, _HIGHEST, EXP_KNOTS),
        bound=max(2 * bound, 16.0),
        value_scale=scale,
        narrow_scale=scale,
        scale=_SUM_SCALE,
        resolution=2.0**-9,
    )


def sum_knots(classes: int) -> tuple[Window, tuple[int, ...]]:
    """p >= (i + 1/2) / LEVELS just when the sum of exp(l_j - l) over j passes no more than this."""
    top = bit_length(classes * 64.0, _SUM_SCALE)
    blocks = -(-(top - _SUM_SCALE + 16) // 4)
    low = top - 4 * blocks
    limits = [Decimal(2 * LEVELS) / (2 * i + 1) for i in range(LEVELS)]
    return Window(low, blocks), tuple(int(x * (1 << (_SUM_SCALE - low))) << low for x in limits)


def deal_probabilities(dealer: Dealer, label: str, films: int, classes: int, exp: Table) -> None:
    """For `answer_probabilities`."""
    deal_segments(dealer, f"{label}/exp", classes * (classes - 1) * films, exp)
    near, knots = sum_knots(classes)
    deal_steps(dealer, f"{label}/sum", (classes * films,), near, len(knots))


def answer_probabilities(
    party: Party, label: str, share: Words, exp: Table
) -> Generator[Step, Received, Prediction | None]:
    """softmax of narrow logits (films, classes), rounded to multiples of 1 / LEVELS.

    p_k = 1 / sum_j exp(l_j - l_k) is compared with the middles between two multiples; only these
    comparisons are opened.
    """
    films, classes = share.shape
    of, other = np.array(list(permutations(range(classes), 2))).T
    difference = np.ascontiguousarray((share[:, other] - share[:, of]).T).reshape(-1)
    odds = yield from segments(party, f"{label}/exp", difference, exp)
    total: Words = odds.reshape(classes, classes - 1, films).sum(axis=1, dtype=np.uint64)
    if party.role == 0:
        total += np.uint64(1 << _SUM_SCALE)
    near, knots = sum_knots(classes)
    _, passed = yield from steps(party, f"{label}/sum", total.reshape(-1), near, knots)
    theirs = yield from _reveal(party, passed)
    if theirs is None:
        return None
    over = unpack(passed ^ theirs, classes * films).sum(axis=0, dtype=np.int64)
    return Prediction("probabilities", ((LEVELS - over) / LEVELS).reshape(classes, films).T)


def _reveal(party: Party, share: Words) -> Generator[Step, Received, Words | None]:
    """The model party's share goes to the data party, which gets it; nothing goes back."""
    if party.role == 0:
        theirs: Words = yield from receive(share)
        return theirs
    yield from send(share)
    return None
