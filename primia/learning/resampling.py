"""Intervals by patient: films of one patient are drawn, or left out, together.

Two films of a patient resemble each other, so an interval that takes films as independent is too
narrow. Patients are drawn with replacement (the cluster bootstrap; Field, Welsh, JRSS B 2007). The
interval is value ± t bootstrap standard errors on the log-odds scale, t of Student's law for as
many patients: near 1, where an AUC often is, percentiles covered 70 to 90 % where they promised
95 (docs/adr/0017).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from primia.imaging.dataset import Indices
from primia.learning.metrics import Floats

Statistic = Callable[[Floats], Floats]
"""From weights of the films, (replicates, films), to a figure of each replicate, (replicates,).

NaN where it cannot be told, as an AUC without positives.
"""

SMALLEST = 5  # units that an interval needs
_ROOM = 2_000_000  # weights held at a time
_SMALLEST_SHARE = 0.95  # of replicates that must tell a figure
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Replicates:
    """A figure, and what it was in each replicate."""

    value: float
    drawn: Floats  # (replicates,)

    @property
    def error(self) -> float:
        """Standard error; NaN when too few replicates could tell."""
        known = self.drawn[np.isfinite(self.drawn)]
        if known.size < max(2, _SMALLEST_SHARE * self.drawn.size):
            return float("nan")
        return float(known.std(ddof=1))


def resample(
    units: Indices, statistics: Mapping[str, Statistic], *, replicates: int, seed: int
) -> dict[str, Replicates]:
    """Each statistic on the films as they are, and with the units drawn anew.

    units: (films,), 0..U-1; films of one unit are drawn together. The same draws serve all
    statistics, so that the differences of two are paired. Values do not depend on the block size.
    """
    films, count = units.size, int(units.max()) + 1
    ones = np.ones((1, films))
    values = {name: float(found(ones)[0]) for name, found in statistics.items()}
    generator = np.random.default_rng(seed)
    block = max(1, _ROOM // films)
    parts: dict[str, list[Floats]] = {name: [] for name in statistics}
    for start in range(0, replicates, block):
        times = min(block, replicates - start)
        drawn = generator.multinomial(count, np.full(count, 1 / count), times)
        weights = drawn[:, units].astype(np.float64)
        for name, found in statistics.items():
            parts[name].append(found(weights))
    return {name: Replicates(values[name], np.concatenate(parts[name])) for name in statistics}


def interval(found: Replicates, units: int) -> tuple[float, float] | None:
    """95 % interval of a share or an AUC; see `interval_of`."""
    return interval_of(found.value, found.error, units)


def interval_of(value: float, error: float, units: int) -> tuple[float, float] | None:
    """95 % interval of a share or an AUC with this standard error; None when it is not known.

    units: how many could have shown another outcome; fewer than 5 give none. A figure of 0 or 1
    without error says of n units that none failed: then the other end is where that had a chance
    of 2.5 % (the "rule of three"; Hanley, Lippman-Hand, JAMA 1983).
    """
    if np.isnan(value) or np.isnan(error) or units < SMALLEST:
        return None
    if error > 0 and 0 < value < 1:
        middle, reach = np.log(value / (1 - value)), student(units - 1) * error
        ends = [middle + side * reach / (value * (1 - value)) for side in (-1, 1)]
        return _expit(ends[0]), _expit(ends[1])
    if value not in (0.0, 1.0):
        return None
    far = 0.025 ** (1 / units)
    return (far, 1.0) if value == 1 else (0.0, 1 - far)


def student(freedom: int) -> float:
    """The 97.5 % point of Student's t, to 0.01 from 4 degrees of freedom on (Cornish, Fisher)."""
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def difference(
    one: Replicates, other: Replicates, units: int
) -> tuple[float, tuple[float, float] | None]:
    """one - other of the same draws, and its interval: ± t standard errors.

    units: as for `interval_of`. No interval when nothing distinguishes the two in any draw.
    """
    paired = Replicates(one.value - other.value, one.drawn - other.drawn)
    error = paired.error
    if np.isnan(paired.value) or np.isnan(error) or error == 0 or units < SMALLEST:
        return paired.value, None
    reach = student(units - 1) * error
    return paired.value, (max(-1.0, paired.value - reach), min(1.0, paired.value + reach))


def auc_of(scores: Floats, positive: Bools) -> Statistic:
    """AUC, ties half."""
    grouped = _grouped(scores, positive)

    def auc(weights: Floats) -> Floats:
        positives, negatives = grouped(weights)
        below = np.cumsum(negatives, axis=1) - negatives
        wins = (positives * (below + negatives / 2)).sum(1)
        return _share(wins, positives.sum(1) * negatives.sum(1))

    return auc


def average_precision_of(scores: Floats, positive: Bools) -> Statistic:
    """Average precision, as `curves.precision_recall`."""
    grouped = _grouped(scores, positive)

    def average_precision(weights: Floats) -> Floats:
        positives, negatives = (c[:, ::-1] for c in grouped(weights))
        true, called = np.cumsum(positives, axis=1), np.cumsum(positives + negatives, axis=1)
        precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
        return _share((positives * precision).sum(1), true[:, -1])

    return average_precision


def share_of(part: Bools, whole: Bools) -> Statistic:
    """Which share of the films in `whole` is in `part`, too."""
    columns = np.stack([part & whole, whole], axis=1).astype(np.float64)

    def share(weights: Floats) -> Floats:
        both = weights @ columns
        return _share(both[:, 0], both[:, 1])

    return share


def mean_of(statistics: list[Statistic]) -> Statistic:
    """The mean of several figures; NaN where one of them is."""
    return lambda weights: np.mean([s(weights) for s in statistics], axis=0)


def _grouped(scores: Floats, positive: Bools) -> Callable[[Floats], tuple[Floats, Floats]]:
    """Weights of positives and of negatives for each distinct score, rising."""
    order = np.argsort(scores, kind="stable")
    ranked, is_positive = scores[order], positive[order]
    starts = np.flatnonzero(np.concatenate([[True], np.diff(ranked) > 0]))

    def split(weights: Floats) -> tuple[Floats, Floats]:
        sorted_ = weights[:, order]
        positives = np.add.reduceat(sorted_ * is_positive, starts, axis=1)
        return positives, np.add.reduceat(sorted_, starts, axis=1) - positives

    return split


def _expit(x: float) -> float:
    return 1 / (1 + float(np.exp(-x)))


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
