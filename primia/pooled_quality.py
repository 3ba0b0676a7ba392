"""Curves, calibration and intervals of a study's model on all sites' films, from masked sums alone.

The sums hold, for each class, a histogram of its scores over the films that are of it and over
those that are not; a study's stored ROC is these histograms, summed up. So nothing more has to
leave a hospital. Films of one patient cannot be told in them: intervals from them are by film.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from primia.learning import curves, resampling
from primia.learning.curves import Ranked
from primia.learning.metrics import MetricLayout
from primia.report.quality import ClassQuality, Estimate, OperatingPoint, Quality
from primia.report.record import Scores
from primia.site_quality import bins

METHOD = (
    "From histograms of scores, summed under masks: films count as if in the middle of their bin, "
    "which moves a probability by {0:.3f} at most. Intervals: 95 %, by film (DeLong, "
    "binomial; log-odds scale); too narrow where patients have several films. Calibration: 10 "
    "even stretches of probability. Points chosen for a sensitivity or a specificity were read "
    "off these same films."
)


def pooled_quality(scores: Scores, classes: Sequence[str]) -> Quality:
    """The quality behind `scores`. Raises ValueError when they are of other classes."""
    if len(scores.roc) != len(classes):
        raise ValueError(f"scores of {len(scores.roc)} classes, and {len(classes)} names")
    ranked = [_ranked(scores, c) for c in range(len(classes))]
    found = tuple(
        _class(name, scores.auc_per_class[i], ranked[i]) for i, name in enumerate(classes)
    )
    per_class = np.array(scores.confusion).sum(1)
    recalls = [(scores.confusion[c][c] / n, n) for c, n in enumerate(per_class) if n]
    stretches = [curves.calibration_error(curves.reliability(r)) for r in ranked]
    top = None
    if len(classes) == 2:
        likely = curves.reliability(curves.most_likely(ranked[1]))
        top = _known(curves.calibration_error(likely))
    return Quality(
        unit="film",
        method=METHOD.format(_coarseness(scores)),
        films=scores.films,
        patients=None,
        auc=_auc(scores.auc, ranked),
        accuracy=_share(scores.accuracy, scores.films),
        balanced_accuracy=_mean_of_shares(scores.balanced_accuracy, recalls),
        brier=_known(sum(map(curves.brier, ranked))),
        ece=_known(float(np.mean(stretches))),
        top_label_ece=top,
        confusion=scores.confusion,
        classes=found,
    )


def _ranked(scores: Scores, number: int) -> Ranked:
    """A class's histograms, from its ROC and its films; exact below 500,000 films of a kind."""
    rates = np.array(scores.roc[number]).reshape(-1, 2)
    layout = MetricLayout(len(scores.roc), len(rates) - 1)
    of_class = sum(scores.confusion[number])
    negatives, positives = (
        np.diff(rates[:, kind] * total).round()[::-1]
        for kind, total in enumerate((scores.films - of_class, of_class))
    )
    return Ranked.of_histogram(layout, positives, negatives)


def _coarseness(scores: Scores) -> float:
    """How far a probability may lie from the middle of its bin."""
    edges, middles = MetricLayout(len(scores.roc), len(scores.roc[0]) - 1).probabilities()
    return float(np.maximum(middles - edges[:-1], edges[1:] - middles).max())


def _class(name: str, auc: float, ranked: Ranked) -> ClassQuality:
    films = float(ranked.positives.sum())
    points, average_precision = curves.precision_recall(ranked)
    stretches = curves.reliability(ranked)
    return ClassQuality(
        name=name,
        films=round(films),
        patients=None,
        prevalence=films / ranked.films if ranked.films else None,
        auc=_auc(auc, [ranked]),
        average_precision=Estimate(_known(average_precision)),
        brier=_known(curves.brier(ranked)),
        ece=_known(curves.calibration_error(stretches)),
        roc=curves.roc(ranked),
        pr=points,
        reliability=bins(stretches),
        operating=tuple(_point(ranked, cut) for cut in curves.cuts(ranked)),
    )


def _point(ranked: Ranked, cut: curves.Cut) -> OperatingPoint:
    tp, fp, fn, tn = counts = curves.table_at(ranked, cut)

    def rate(right: int, wrong: int) -> Estimate:
        films = right + wrong
        return _share(right / films, films) if films else Estimate(None)

    return OperatingPoint(
        name=cut.name,
        chosen_here=cut.chosen_here,
        threshold=cut.threshold,
        sensitivity=rate(tp, fn),
        specificity=rate(tn, fp),
        ppv=rate(tp, fp),
        npv=rate(tn, fn),
        counts=counts,
    )


def _auc(value: float, ranked: Sequence[Ranked]) -> Estimate:
    """An AUC, or the mean of several classes' with the largest error that it can have.

    How the classes' AUCs hang together is not in the sums: the mean of their errors bounds it.
    """
    used = [ranked[1]] if len(ranked) == 2 else [r for r in ranked if curves.roc(r)]
    if not any(curves.roc(r) for r in used):
        return Estimate(None)
    smallest = min(min(r.positives.sum(), r.negatives.sum()) for r in used)
    error = float(np.mean([curves.auc_error(r) for r in used]))
    return _with_error(value, error, round(float(smallest)))


def _share(value: float, films: int) -> Estimate:
    if not films:
        return Estimate(None)
    return _with_error(value, math.sqrt(value * (1 - value) / films), films)


def _mean_of_shares(value: float, parts: Sequence[tuple[float, int]]) -> Estimate:
    if not parts:
        return Estimate(None)
    variances = [p * (1 - p) / n for p, n in parts]
    return _with_error(value, math.sqrt(sum(variances)) / len(parts), min(n for _, n in parts))


def _with_error(value: float, error: float, films: int) -> Estimate:
    found = resampling.interval_of(value, error, films)
    return Estimate(value, *(found or (None, None)))


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
