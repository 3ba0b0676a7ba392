"""How often an attack on membership is right: rates with intervals that hold.

Everything rests on trials: one patient against one trained model, on whom a coin decided whether
that patient was trained on. Given the references the trials are independent, with chances of
their own; a binomial interval is then wide enough (Hoeffding 1956). It speaks of these patients
under trainings drawn anew, not of other patients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, binom, norm, rankdata

from primia.audit.membership_scores import Bools, Floats

MEASURABLE = 3
"""Non-members that a rate of false alarms must rest on: 0.1 % needs 3,000 of them, 1 % 300."""

SURELY_FOUND = 0.9
LEAST_TARGETS = 8
"""Of one patient's trials: with fewer, chance alone gets nine in ten of them right too often."""


@dataclass(frozen=True)
class Interval:
    """A figure between its confidence limits."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Trials:
    """scores and members, (targets, patients): what the attack said, and what was true."""

    scores: Floats
    members: Bools

    def of(self, patients: Bools) -> Trials:
        """The trials of these patients, bool (patients,)."""
        return Trials(self.scores[:, patients], self.members[:, patients])

    @property
    def inside(self) -> int:
        """Trials of members."""
        return int(self.members.sum())

    @property
    def outside(self) -> int:
        """Trials of non-members."""
        return int(self.members.size) - self.inside


def clopper_pearson(hits: int, of: int, error: float) -> Interval:
    """The exact binomial interval (Clopper, Pearson 1934); `error` is split between both ends.

    Raises ValueError unless 0 <= hits <= of and of > 0.
    """
    if not 0 <= hits <= of or of < 1:
        raise ValueError(f"{hits} of {of}: not a count of hits")
    low = 0.0 if hits == 0 else float(beta.ppf(error / 2, hits, of - hits + 1))
    high = 1.0 if hits == of else float(beta.ppf(1 - error / 2, hits + 1, of - hits))
    return Interval(hits / of, low, high)


@dataclass(frozen=True)
class Point:
    """The attack where it raises few false alarms: `found` of `inside`, `alarms` of `outside`."""

    found: int
    inside: int
    alarms: int
    outside: int

    def tpr(self, error: float) -> Interval:
        """The share of members that is found."""
        return clopper_pearson(self.found, self.inside, error)

    def fpr(self, error: float) -> Interval:
        """The share of non-members taken for members."""
        return clopper_pearson(self.alarms, self.outside, error)

    def exceeds(self, epsilon: float, delta: float, error: float) -> bool:
        """Whether TPR > e^epsilon * FPR + delta, sure but for `error`; (0, 0) is chance.

        The threshold is an order statistic of the non-members: given it the members' count is
        binomial, and the share of non-members beyond it has exactly the distribution that the
        upper Clopper-Pearson limit is made from. So looking for the threshold costs nothing.
        """
        allowed = math.exp(min(epsilon, 700.0)) * self.fpr(error).high + delta
        return self.tpr(error).low > allowed


def point(trials: Trials, rate: float) -> Point | None:
    """The attack at a false alarm rate of `rate`, or None where too few non-members carry it."""
    outside = np.sort(trials.scores[~trials.members])[::-1]
    alarms = math.floor(rate * outside.size + 1e-9)
    if alarms < MEASURABLE or not trials.inside:
        return None
    threshold = outside[alarms]
    inside = trials.scores[trials.members]
    return Point(
        int((inside > threshold).sum()), inside.size, int((outside > threshold).sum()), outside.size
    )


def auc(trials: Trials, error: float) -> Interval | None:
    """Chance that a member scores above a non-member, a tie counting half; None without both.

    The interval takes all trials of a patient as one draw (Obuchowski, Biometrics 1997, on the
    components of DeLong et al. 1988), on the scale of logits, which keeps it within (0, 1).
    """
    members = trials.members.ravel()
    inside, outside = trials.inside, trials.outside
    if not inside or not outside or trials.members.shape[1] < 2:
        return None
    scores = trials.scores.ravel()
    ranks = rankdata(scores)
    own = np.empty(scores.size)
    own[members], own[~members] = rankdata(scores[members]), rankdata(scores[~members])
    above = np.where(members, (ranks - own) / outside, 1 - (ranks - own) / inside)
    value = float(above[members].mean())
    parts = (above - value) / np.where(members, inside, outside)
    sums = parts.reshape(trials.scores.shape).sum(0)
    patients = sums.size
    deviation = math.sqrt(patients / (patients - 1) * float(np.square(sums).sum()))
    z = float(norm.isf(error / 2))
    if not 0 < value < 1 or deviation == 0:  # told apart without fault: by the exact binomial
        few = min(inside, outside)
        limits = clopper_pearson(round(value * few), few, error)
        return Interval(value, limits.low, limits.high)
    centre, reach = math.log(value / (1 - value)), z * deviation / (value * (1 - value))
    return Interval(value, _expit(centre - reach), _expit(centre + reach))


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


@dataclass(frozen=True)
class Found:
    """Patients of whom the attack was right in nine trials of ten or more.

    chance: the share of them where every answer is a coin's.
    """

    patients: int
    of: int
    chance: float

    def share(self, error: float) -> Interval:
        """Their share of all patients."""
        return clopper_pearson(self.patients, self.of, error)


def surely_found(trials: Trials) -> Found | None:
    """Who is found again and again; None with too few targets to tell that from luck.

    The attack says "member" above the median of the target, since half of the patients are.
    """
    targets, patients = trials.scores.shape
    if targets < LEAST_TARGETS:
        return None
    says = trials.scores > np.median(trials.scores, axis=1, keepdims=True)
    right = (says == trials.members).sum(0)
    least = math.ceil(SURELY_FOUND * targets)
    chance = float(binom.sf(least - 1, targets, 0.5))
    return Found(int((right >= least).sum()), patients, chance)
