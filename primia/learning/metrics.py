"""What a site counts about a model, as numbers that add up across sites; no torch here.

A site's own figures would tell how its patients fare and how many there are. So each site writes
its evaluation as a vector of non-negative integers, the vectors are summed under masks, and only
the sum is read: confusion counts, histograms of scores (from which AUC and ROC follow), loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from primia.errors import PeerError

Counts = npt.NDArray[np.uint32]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LOSS_UNITS = 64
"""The loss travels in whole 64ths; rounded once per site."""
LOSS_CAP = 16.0
"""Largest loss of one film that is counted; keeps the sum of 4 million films within 32 bits."""

_SCORE_LIMIT = 24.0
_SCORE_SCALE = 0.1


@dataclass(frozen=True)
class MetricLayout:
    """How counts lie in the flat vector: confusion, positives, negatives, loss, films.

    confusion: (classes, classes), row = true class, column = predicted class.
    positives, negatives: (classes, bins), histogram of the score of a class over the films that
        are of this class, and over those that are not.
    """

    classes: int
    bins: int

    @property
    def length(self) -> int:
        """Number of counts."""
        return self.classes**2 + 2 * self.classes * self.bins + 2

    def bin_of(self, scores: Floats) -> Ints:
        """The bin of each score, a one-vs-rest log-odds with 0 for a guess; any shape.

        Bins are even in asinh(score / 0.1): narrow where classes overlap, wide far out, so that
        128 of them keep AUC to three digits for a timid model as for a sure one.
        """
        limit = np.arcsinh(_SCORE_LIMIT / _SCORE_SCALE)
        within = np.clip(np.nan_to_num(scores), -_SCORE_LIMIT, _SCORE_LIMIT)
        place = (np.arcsinh(within / _SCORE_SCALE) / limit + 1) / 2
        bins: Ints = np.clip((place * self.bins).astype(np.int64), 0, self.bins - 1)
        return bins

    def probabilities(self) -> tuple[Floats, Floats]:
        """Where the bins begin and end, (bins + 1,), and their middles, (bins,), as probabilities
        of the class."""
        places = np.arange(2 * self.bins + 1) / self.bins - 1
        scores = _SCORE_SCALE * np.sinh(places * np.arcsinh(_SCORE_LIMIT / _SCORE_SCALE))
        found = probability(scores, self.classes)
        return found[::2], found[1::2]

    def count(self, logits: Floats, labels: Ints) -> Counts:
        """Count the films of one site. logits: (n, classes); labels: (n,). Returns (length,)."""
        n = labels.size
        logits = np.nan_to_num(logits.astype(np.float64))
        confusion = np.zeros((self.classes, self.classes), np.int64)
        np.add.at(confusion, (labels, logits.argmax(1)), 1)
        histograms = np.zeros((2, self.classes, self.bins), np.int64)
        bins = self.bin_of(one_vs_rest(logits))
        classes = np.broadcast_to(np.arange(self.classes), bins.shape)
        is_negative = (labels[:, None] != classes).astype(np.int64)
        np.add.at(histograms, (is_negative, classes, bins), 1)
        loss = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(n), labels]
        loss_units = round(float(np.clip(loss, 0.0, LOSS_CAP).sum()) * LOSS_UNITS)
        flat = np.concatenate([confusion.ravel(), histograms.ravel(), [loss_units, n]])
        return flat.astype(np.uint32)


@dataclass(frozen=True, eq=False)
class Metrics:
    """Figures of one model over the validation films of all sites that took part."""

    films: int
    loss: float  # mean cross-entropy in nats
    confusion: Ints  # (classes, classes), row = true class
    positives: Ints  # (classes, bins)
    negatives: Ints  # (classes, bins)

    @classmethod
    def from_counts(cls, layout: MetricLayout, counts: npt.NDArray[np.integer]) -> Metrics:
        """Read a vector of counts, usually the sum over sites.

        Raises PeerError when the counts contradict each other: then a site counted wrongly.
        """
        if counts.shape != (layout.length,):
            raise PeerError(
                f"metrics: got shape {counts.shape}, the plan says ({layout.length},); "
                "all sites must run the same plan"
            )
        flat = counts.astype(np.int64)
        c, b = layout.classes, layout.bins
        confusion = flat[: c * c].reshape(c, c)
        histograms = flat[c * c : -2].reshape(2, c, b)
        loss_units, films = int(flat[-2]), int(flat[-1])
        per_class = confusion.sum(1)
        consistent = (
            per_class.sum() == films
            and np.array_equal(histograms[0].sum(1), per_class)
            and np.array_equal(histograms[1].sum(1), films - per_class)
            and loss_units <= LOSS_CAP * LOSS_UNITS * films
        )
        if not consistent or flat.min() < 0:
            raise PeerError("metrics: the counts do not add up; one site counted wrongly")
        loss = loss_units / LOSS_UNITS / films if films else float("nan")
        return cls(films, loss, confusion, histograms[0], histograms[1])

    @cached_property
    def accuracy(self) -> float:
        """Share of films whose most likely class is the true one; NaN without films."""
        return _ratio(int(np.trace(self.confusion)), self.films)

    @cached_property
    def balanced_accuracy(self) -> float:
        """Mean recall over the classes that occur; NaN without films."""
        per_class = self.confusion.sum(1)
        recalls = [self.confusion[i, i] / n for i, n in enumerate(per_class) if n]
        return float(np.mean(recalls)) if recalls else float("nan")

    @cached_property
    def auc_per_class(self) -> tuple[float, ...]:
        """One-vs-rest area under the ROC curve; NaN for a class without positives or negatives.

        The chance that a positive scores above a negative, ties half (Hanley & McNeil 1982);
        scores in one bin count as ties.
        """
        return tuple(map(_auc, self.positives, self.negatives))

    @cached_property
    def auc(self) -> float:
        """Two classes: the AUC of class 1. More: the unweighted mean over the classes."""
        if len(self.confusion) == 2:
            return self.auc_per_class[1]
        known = [a for a in self.auc_per_class if not np.isnan(a)]
        return float(np.mean(known)) if known else float("nan")

    def roc(self, class_index: int) -> tuple[Floats, Floats]:
        """False and true positive rates, each (bins + 1,), rising from 0 to 1."""
        rates = [
            np.concatenate([[0], np.cumsum(h[class_index][::-1])]) / max(h[class_index].sum(), 1)
            for h in (self.negatives, self.positives)
        ]
        return rates[0], rates[1]


def probability(scores: Floats, classes: int) -> Floats:
    """The softmax probability of a class from its one-vs-rest score; any shape."""
    shifted = scores - np.log(classes - 1)
    found: Floats = np.exp(-np.logaddexp(0, -shifted))
    return found


def one_vs_rest(logits: Floats) -> Floats:
    """Log-odds of each class, counted from what guessing gives: 0 is p = 1/classes.

    log p_c - log(1 - p_c) + log(classes - 1), stable as z_c minus the log of the others' mean exp.
    """
    others = np.log(logits.shape[1] - 1)
    scores = np.empty_like(logits)
    for c in range(logits.shape[1]):
        rest = np.logaddexp.reduce(np.delete(logits, c, axis=1), axis=1)
        scores[:, c] = logits[:, c] - rest + others
    return scores


def _auc(positives: Ints, negatives: Ints) -> float:
    below = np.cumsum(negatives) - negatives
    wins = float((positives * (below + negatives / 2)).sum())
    return _ratio(wins, int(positives.sum()) * int(negatives.sum()))


def _ratio(part: float, whole: int) -> float:
    return float(part / whole) if whole else float("nan")
