"""ROC, precision and recall, calibration, rates at thresholds: of one class against the rest.

Films come in groups of one score, by score or by the bins of masked histograms, so that a site and
the sum over all sites are judged by the same lines. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from primia.learning.metrics import Floats, MetricLayout

RELIABILITY_BINS = 10
MOST_POINTS = 200  # of a curve that is kept
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False)
class Ranked:
    """Groups of films by rising score, each (groups,).

    start: the probability from which on a threshold takes the group in. probability: of its films.
    exact: each group has one score, so that a threshold may lie anywhere between groups.
    """

    start: Floats
    probability: Floats
    positives: Floats
    negatives: Floats
    exact: bool

    @classmethod
    def of(cls, scores: Floats, probability: Floats, positive: npt.NDArray[np.bool_]) -> Self:
        """From each film's score, which ranks, and its probability, rising with the score."""
        _, first, group = np.unique(scores, return_index=True, return_inverse=True)
        count = first.size
        found = probability[first]
        return cls(
            found,
            found,
            np.bincount(group[positive], minlength=count).astype(np.float64),
            np.bincount(group[~positive], minlength=count).astype(np.float64),
            exact=True,
        )

    @classmethod
    def of_histogram(
        cls, layout: MetricLayout, positives: npt.ArrayLike, negatives: npt.ArrayLike
    ) -> Self:
        """From one class's histograms; films count as if in the middle of their bin."""
        edges, middles = layout.probabilities()
        of_class, others = (np.asarray(h, dtype=np.float64) for h in (positives, negatives))
        return cls(edges[:-1], middles, of_class, others, exact=False)

    @property
    def films(self) -> float:
        """Of the class and of the others."""
        return float(self.positives.sum() + self.negatives.sum())

    def from_top(self) -> tuple[Floats, Floats]:
        """True and false positives when the 0, 1, … highest groups are called positive."""
        true, false = (
            np.concatenate([[0.0], np.cumsum(c[::-1])]) for c in (self.positives, self.negatives)
        )
        return true, false


def roc(ranked: Ranked) -> Points:
    """(false, true positive rate), rising from (0, 0) to (1, 1); empty for one class alone."""
    true, false = ranked.from_top()
    if not true[-1] or not false[-1]:
        return ()
    return _thinned(false / false[-1], true / true[-1])


def auc_error(ranked: Ranked) -> float:
    """Standard error of the AUC with films as independent (DeLong et al. 1988); NaN when unknown.

    The variance of each film's share of films of the other kind that it beats, ties half.
    """
    p, n = ranked.positives, ranked.negatives
    if p.sum() < 2 or n.sum() < 2:
        return float("nan")
    wins = (np.cumsum(n) - n + n / 2) / n.sum()  # of a positive in the group
    losses = (p.sum() - np.cumsum(p) + p / 2) / p.sum()  # of a negative in it
    parts = [_variance(wins, p) / p.sum(), _variance(losses, n) / n.sum()]
    return float(np.sqrt(sum(parts)))


def precision_recall(ranked: Ranked) -> tuple[Points, float]:
    """(recall, precision) by falling threshold, and the average precision.

    Average precision is the sum of precisions weighted by the rise of recall, not interpolated.
    NaN and no points without positives.
    """
    true, false = ranked.from_top()
    called = true + false
    if not true[-1]:
        return (), float("nan")
    recall = true / true[-1]
    precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
    points = _thinned(recall[called > 0], precision[called > 0])
    return points, float((np.diff(recall) * precision[1:]).sum())


@dataclass(frozen=True)
class Stretch:
    """Films whose predicted probability lies in [low, high): their mean, and their true share."""

    low: float
    high: float
    predicted: float
    observed: float
    films: int


def reliability(ranked: Ranked) -> tuple[Stretch, ...]:
    """Ten even stretches of probability; those without films are left out."""
    place = np.minimum((ranked.probability * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    found = []
    for i in range(RELIABILITY_BINS):
        here = place == i
        positives, negatives = ranked.positives[here], ranked.negatives[here]
        films = float((positives + negatives).sum())
        if films:
            mean = float(((positives + negatives) * ranked.probability[here]).sum() / films)
            low, high = i / RELIABILITY_BINS, (i + 1) / RELIABILITY_BINS
            found.append(Stretch(low, high, mean, float(positives.sum() / films), round(films)))
    return tuple(found)


def calibration_error(stretches: tuple[Stretch, ...]) -> float:
    """Expected calibration error (Naeini et al., AAAI 2015); NaN without films."""
    films = sum(s.films for s in stretches)
    if not films:
        return float("nan")
    return sum(s.films * abs(s.observed - s.predicted) for s in stretches) / films


def brier(ranked: Ranked) -> float:
    """Mean squared distance of the class's probability from what was true; NaN without films."""
    if not ranked.films:
        return float("nan")
    p = ranked.probability
    return float((ranked.positives * (1 - p) ** 2 + ranked.negatives * p**2).sum() / ranked.films)


def most_likely(ranked: Ranked) -> Ranked:
    """Of two classes: the probability of the likelier one, and whether it was the true one."""
    sure = ranked.probability >= 0.5
    p = np.where(sure, ranked.probability, 1 - ranked.probability)
    right = np.where(sure, ranked.positives, ranked.negatives)
    wrong = np.where(sure, ranked.negatives, ranked.positives)
    order = np.argsort(p, kind="stable")
    return Ranked(p[order], p[order], right[order], wrong[order], ranked.exact)


@dataclass(frozen=True)
class Cut:
    """A threshold on a class's probability; groups from `first` on are called positive."""

    name: str
    chosen_here: bool
    threshold: float
    first: int


def cuts(ranked: Ranked, *, sensitivity: float = 0.9, specificity: float = 0.9) -> tuple[Cut, ...]:
    """One threshold fixed beforehand, p ≥ 0.5, and two read off these films.

    In a histogram the first is the bin's edge nearest to 0.5; for two classes that is 0.5 itself.
    """
    if ranked.exact:
        first = int(np.searchsorted(ranked.start, 0.5))
        found = [Cut("p ≥ 0.5", False, 0.5, first)]
    else:
        first = int(np.abs(ranked.start - 0.5).argmin())
        at = float(ranked.start[first])
        found = [Cut(f"p ≥ {at:.3g}", False, at, first)]
    true, false = ranked.from_top()
    groups = ranked.start.size
    if not true[-1] or not false[-1]:
        return tuple(found)
    enough = np.flatnonzero(true >= sensitivity * true[-1])[0]  # the fewest groups
    few = np.flatnonzero(false <= (1 - specificity) * false[-1] + 1e-9)[-1]  # the most groups
    for name, taken in (
        (f"sensitivity ≥ {sensitivity:g}", int(enough)),
        (f"specificity ≥ {specificity:g}", int(few)),
    ):
        first = groups - taken
        at = float(ranked.start[first]) if taken else 1.0
        found.append(Cut(name, True, at, first))
    return tuple(found)


def table_at(ranked: Ranked, cut: Cut) -> tuple[int, int, int, int]:
    """True positives, false positives, false negatives, true negatives."""
    above, below = slice(cut.first, None), slice(cut.first)
    parts = (
        ranked.positives[above],
        ranked.negatives[above],
        ranked.positives[below],
        ranked.negatives[below],
    )
    tp, fp, fn, tn = (round(float(part.sum())) for part in parts)
    return tp, fp, fn, tn


def _variance(values: Floats, weights: Floats) -> float:
    total = weights.sum()
    mean = (values * weights).sum() / total
    return float((weights * (values - mean) ** 2).sum() / (total - 1))


def _thinned(x: Floats, y: Floats) -> Points:
    """At most `MOST_POINTS` of the points, first and last among them, repeats left out."""
    points = np.stack([x, y], axis=1).round(6)
    new = np.concatenate([[True], (np.diff(points, axis=0) != 0).any(axis=1)])
    points = points[new]
    if len(points) > MOST_POINTS:
        points = points[np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int)]
    return tuple((float(a), float(b)) for a, b in points)
