"""What luck alone would do: exact tail probabilities, so that a verdict has a stated error rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binom

ALPHA = 1e-3
"""The chance that a verdict calls protection fallen when the attack only guessed."""


def luck_of_ranks(ranks: Sequence[int], gallery: int) -> float:
    """How likely guesses rank as well: each rank then is uniform on 1..gallery, independently.

    Two questions, each at half the level, so that neither one film named outright nor a trace in
    all of them is missed: a best rank as low, and a sum of ranks as low. 1 for no ranks.
    """
    if not ranks:
        return 1.0
    best = 1 - (1 - min(ranks) / gallery) ** len(ranks)
    return min(1.0, 2 * min(best, _sum_at_most(sum(ranks), len(ranks), gallery)))


def _sum_at_most(total: int, count: int, gallery: int) -> float:
    """P(U_1 + ... + U_count <= total), by convolution."""
    law = np.ones(1)
    one = np.full(gallery, 1 / gallery)
    for _ in range(count):
        law = np.convolve(law, one)  # law[k] is the chance of the sum count + k
    return float(min(1.0, law[: max(0, total - count + 1)].sum()))


def luck_of_wins(wins: int, losses: int) -> float:
    """How likely as many wins of two equals are; draws are left out (the sign test)."""
    return float(binom.sf(wins - 1, wins + losses, 0.5))
