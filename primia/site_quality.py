"""How good a model is on one site's own validation films; all of it stays at the site.

`worker` runs this for people of the hospital, and demonstrations for theirs. What may be handed
on is `report.quality.shareable`'s affair.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from primia.alone import OnRound, train_alone
from primia.config.plan import StudyPlan, plan_digest
from primia.federation.optimiser import pack_weights
from primia.imaging.dataset import Cohort, Films, Indices
from primia.learning import curves, resampling
from primia.learning.curves import Ranked
from primia.learning.evaluate import predict
from primia.learning.metrics import Floats, one_vs_rest, probability
from primia.learning.models import FloatVector
from primia.learning.resampling import Replicates, Statistic
from primia.learning.terms import LocalTerms
from primia.report.quality import (
    ClassQuality,
    Comparison,
    Estimate,
    OperatingPoint,
    Quality,
    ReliabilityBin,
    SiteQuality,
)
from primia.types import sha256

REPLICATES = 2000
SEED = 1
METHOD = (
    "Intervals: 95 %, value ± t bootstrap standard errors on the log-odds scale, from {0} draws "
    "of the patients with replacement (seed {1}); a figure of 0 or 1 that no draw changes has the "
    "bound of n patients of whom none failed. Calibration: 10 even stretches of "
    "probability. Points chosen for a sensitivity or a specificity were read off these same films."
)
Alone = Literal["none", "plain", "both"]
WITHOUT_NOISE = "this hospital alone, without noise"
WITH_NOISE = "this hospital alone, with the plan's noise"


def site_quality(
    plan: StudyPlan,
    cohort: Cohort,
    weights: FloatVector,
    *,
    site: str,
    device: str = "cpu",
    alone: Alone = "both",
    replicates: int = REPLICATES,
    seed: int = SEED,
    on_round: OnRound = lambda _done, _of: None,
) -> SiteQuality:
    """Judge `weights` on the validation films, against models trained here alone.

    alone: which of these to train: without noise, with the plan's, too, or none. Each takes as long
        as the study's training did here.
    on_round: called after each of their rounds. Raises PeerError for weights that do not fit the
    plan, DataError for films.
    """
    terms, films = LocalTerms.of(plan), cohort.validation
    logits = predict(terms, weights, films, device=device)
    others = {}
    for name, private in _models(plan, alone):
        found = train_alone(plan, cohort, private=private, device=device, on_round=on_round)
        others[name] = predict(terms, found, films, device=device)
    judged = judge(plan.model.classes, films, logits, others, replicates=replicates, seed=seed)
    return SiteQuality(
        site=site,
        study=plan.study,
        plan=plan_digest(plan),
        model=sha256(pack_weights(weights)),
        quality=judged.quality,
        comparisons=judged.comparisons,
        design_effect=judged.design_effect,
        replicates=replicates,
        seed=seed,
        shared=False,
        made_at=time.time(),
    )


def _models(plan: StudyPlan, alone: Alone) -> Sequence[tuple[str, bool]]:
    """The local models that a study's model is held against: (name, private)."""
    if alone == "none":
        return ()
    bare = (WITHOUT_NOISE, False)
    return (bare,) if alone == "plain" or plan.privacy == "none" else (bare, (WITH_NOISE, True))


@dataclass(frozen=True)
class Judged:
    """A model's quality, and how it stands to others."""

    quality: Quality
    comparisons: tuple[Comparison, ...]
    design_effect: float | None


def judge(
    classes: Sequence[str],
    films: Films,
    logits: Floats,
    others: Mapping[str, Floats],
    *,
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> Judged:
    """What `logits`, (films, classes), say of the films, and what those of other models do.

    Every interval draws patients, the same in all. Raises ValueError without films.
    """
    if not len(films):
        raise ValueError("no films to judge a model on")
    logits = np.nan_to_num(logits)
    by_class = [_OneClass(c, films, logits) for c in range(len(classes))]
    statistics = _statistics(films, logits, by_class)
    statistics |= {f"other {name}": _auc_of(films, found) for name, found in others.items()}
    drawn = resampling.resample(films.patients, statistics, replicates=replicates, seed=seed)
    smallest = min(c.smaller_side for c in by_class)
    quality = Quality(
        unit="patient",
        method=METHOD.format(replicates, seed),
        films=len(films),
        patients=films.patient_count,
        auc=_estimate(drawn["auc"], smallest),
        accuracy=_estimate(drawn["accuracy"], films.patient_count),
        balanced_accuracy=_estimate(drawn["balanced accuracy"], min(c.patients for c in by_class)),
        brier=_known(sum(curves.brier(c.ranked) for c in by_class)),
        ece=_known(float(np.mean([c.calibration_error for c in by_class]))),
        top_label_ece=_known(_top_label_error(films, logits)),
        confusion=_confusion(films, logits),
        classes=tuple(c.quality(classes[i], drawn) for i, c in enumerate(by_class)),
    )
    comparisons = tuple(
        _comparison(name, drawn["auc"], drawn[f"other {name}"], smallest) for name in others
    )
    return Judged(
        quality, comparisons, _design_effect(films, statistics["auc"], drawn["auc"], seed)
    )


class _OneClass:
    """One class against the rest: its ranked films, its thresholds and their masks."""

    def __init__(self, number: int, films: Films, logits: Floats) -> None:
        self.number = number
        self.positive = films.labels == number
        self.scores = one_vs_rest(logits)[:, number]
        self._p = probability(self.scores, logits.shape[1])
        self.ranked = Ranked.of(self.scores, self._p, self.positive)
        self.cuts = curves.cuts(self.ranked)
        self.stretches = curves.reliability(self.ranked)
        self.calibration_error = curves.calibration_error(self.stretches)
        self._of = films.patients
        self._with = np.unique(films.patients[self.positive]).size
        self._without = np.unique(films.patients[~self.positive]).size

    @property
    def patients(self) -> int:
        """With a film of the class."""
        return self._with

    @property
    def smaller_side(self) -> int:
        """Patients with a film of the class, or with one of another: the fewer of the two."""
        return min(self._with, self._without)

    def statistics(self) -> dict[str, Statistic]:
        """What is resampled."""
        found = {
            f"auc {self.number}": resampling.auc_of(self.scores, self.positive),
            f"ap {self.number}": resampling.average_precision_of(self.scores, self.positive),
        }
        _, group = np.unique(self.scores, return_inverse=True)
        for cut in self.cuts:
            called, is_ = group >= cut.first, self.positive
            name = f"{self.number} {cut.name}"
            found[f"sensitivity {name}"] = resampling.share_of(called, is_)
            found[f"specificity {name}"] = resampling.share_of(~called, ~is_)
            found[f"ppv {name}"] = resampling.share_of(is_, called)
            found[f"npv {name}"] = resampling.share_of(~is_, ~called)
        return found

    def quality(self, name: str, drawn: Mapping[str, Replicates]) -> ClassQuality:
        """The figures of this class."""
        films = int(self.positive.sum())
        pr, _ = curves.precision_recall(self.ranked)
        return ClassQuality(
            name=name,
            films=films,
            patients=self._with,
            prevalence=films / self.positive.size,
            auc=_estimate(drawn[f"auc {self.number}"], self.smaller_side),
            average_precision=_estimate(drawn[f"ap {self.number}"], self.smaller_side),
            brier=_known(curves.brier(self.ranked)),
            ece=_known(self.calibration_error),
            roc=curves.roc(self.ranked),
            pr=pr,
            reliability=bins(self.stretches, self._patients_between),
            operating=tuple(self._point(cut, drawn) for cut in self.cuts),
        )

    def _patients_between(self, low: float, high: float) -> int:
        here = (self._p >= low) & ((self._p < high) | (high == 1))
        return np.unique(self._of[here]).size

    def _point(self, cut: curves.Cut, drawn: Mapping[str, Replicates]) -> OperatingPoint:
        def rate(which: str, patients: int) -> Estimate:
            return _estimate(drawn[f"{which} {self.number} {cut.name}"], patients)

        return OperatingPoint(
            name=cut.name,
            chosen_here=cut.chosen_here,
            threshold=cut.threshold,
            sensitivity=rate("sensitivity", self._with),
            specificity=rate("specificity", self._without),
            ppv=rate("ppv", self.smaller_side),
            npv=rate("npv", self.smaller_side),
            counts=curves.table_at(self.ranked, cut),
        )


def bins(
    stretches: Sequence[curves.Stretch],
    patients: Callable[[float, float], int | None] = lambda _low, _high: None,
) -> tuple[ReliabilityBin, ...]:
    """As the report knows them. patients: how many have a film in a stretch."""
    return tuple(
        ReliabilityBin(s.low, s.high, s.predicted, s.observed, s.films, patients(s.low, s.high))
        for s in stretches
    )


def _statistics(
    films: Films, logits: Floats, by_class: Sequence[_OneClass]
) -> dict[str, Statistic]:
    called = logits.argmax(1)
    everyone = np.ones(len(films), dtype=bool)
    there = [c for c in range(logits.shape[1]) if (films.labels == c).any()]
    recalls = [resampling.share_of(called == c, films.labels == c) for c in there]
    found: dict[str, Statistic] = {
        "auc": _auc_of(films, logits),
        "accuracy": resampling.share_of(called == films.labels, everyone),
        "balanced accuracy": resampling.mean_of(recalls),
    }
    for one in by_class:
        found |= one.statistics()
    return found


def _auc_of(films: Films, logits: Floats) -> Statistic:
    """Two classes: of the second. More: the mean over those that can be told."""
    scores = one_vs_rest(logits)
    classes = range(logits.shape[1]) if logits.shape[1] > 2 else (1,)
    both = [c for c in classes if 0 < (films.labels == c).sum() < len(films)]
    if not both:
        return lambda weights: np.full(len(weights), np.nan)
    return resampling.mean_of([resampling.auc_of(scores[:, c], films.labels == c) for c in both])


def _comparison(name: str, ours: Replicates, other: Replicates, patients: int) -> Comparison:
    value, reach = resampling.difference(ours, other, patients)
    low, high = reach or (None, None)
    return Comparison(
        name=name,
        private=name == WITH_NOISE,
        auc=_estimate(other, patients),
        difference=Estimate(_known(value), low, high),
    )


def _design_effect(films: Films, auc: Statistic, by_patient: Replicates, seed: int) -> float | None:
    """How much more the AUC varies by patient than by film."""
    each: Indices = np.arange(len(films))
    by_film = resampling.resample(
        each, {"auc": auc}, replicates=by_patient.drawn.size, seed=seed + 1
    )["auc"].error
    return _known((by_patient.error / by_film) ** 2) if by_film else None


def _top_label_error(films: Films, logits: Floats) -> float:
    called = logits.argmax(1)
    every = probability(one_vs_rest(logits), logits.shape[1])
    sure = every[np.arange(len(films)), called]
    ranked = Ranked.of(sure, sure, called == films.labels)
    return curves.calibration_error(curves.reliability(ranked))


def _confusion(films: Films, logits: Floats) -> tuple[tuple[int, ...], ...]:
    classes = logits.shape[1]
    table = np.zeros((classes, classes), int)
    np.add.at(table, (films.labels, logits.argmax(1)), 1)
    return tuple(tuple(int(n) for n in row) for row in table)


def _estimate(found: Replicates, units: int) -> Estimate:
    low, high = resampling.interval(found, units) or (None, None)
    return Estimate(_known(found.value), low, high)


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
