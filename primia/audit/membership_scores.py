"""How much a model's answers speak for a patient having been trained on: LiRA and RMIA.

Both compare the model under attack with reference models, trained in the same way on known
patients. What is scored is a patient, never a film: all films of a patient are trained on
together or not at all, so the films' evidence is added up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import expit, log_expit, logsumexp

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

Method = Literal["lira", "rmia"]

LEAST_SPREAD = 1e-3
"""Deviation of a confidence over reference models that is believed at least, in logits."""

GAMMA = 2.0
"""RMIA: how many times likelier than a stranger's a patient's films must have become."""


_LARGEST_LOG = 700.0


@dataclass(frozen=True)
class References:
    """What reference models answer, and on whom each was trained.

    confidence: (references, films), as `confidence` gives it. members: (references, patients).
    """

    confidence: Floats
    members: Bools

    def __post_init__(self) -> None:
        seen = self.members.sum(0)
        if ((seen == 0) | (seen == len(self.members))).any():
            raise ValueError("a patient is in all references or in none: nothing to compare with")


def confidence(logits: Floats, labels: Ints) -> Floats:
    """log(p / (1 - p)) of the right class, (films,), for logits (films, classes).

    Nearly Gaussian over trainings, unlike p (Carlini et al. 2022, section IV.C); taken from the
    logits, so that a p of nearly one loses no digits.
    """
    rows = np.arange(len(labels))
    others = logits.astype(np.float64).copy()
    others[rows, labels] = -np.inf
    found: Floats = logits[rows, labels] - logsumexp(others, axis=1)
    return found


def of_patients(films: Floats, patients: Ints, count: int) -> Floats:
    """The sum over each patient's films, (count,)."""
    return np.bincount(patients, weights=films, minlength=count).astype(np.float64)


def lira(target: Floats, references: References, patients: Ints) -> Floats:
    """Log-likelihood ratio of each patient, (patients,): above 0 speaks for a member.

    The online attack of Carlini et al. (IEEE S&P 2022, arXiv 2112.03570), Algorithm 1: Gaussians
    of a film's confidence over the references with it and over those without. With few references
    the variance is common to all films, as the paper advises below 64.

    target: confidence of the model under attack, (films,). patients: of each film, (films,).
    """
    inside = references.members[:, patients]  # (references, films)
    with_it = _means(references.confidence, inside)
    without = _means(references.confidence, ~inside)
    spread_with = _spread(references.confidence - with_it, inside)
    spread_without = _spread(references.confidence - without, ~inside)
    ratio = _log_normal(target, with_it, spread_with) - _log_normal(target, without, spread_without)
    return of_patients(ratio, patients, references.members.shape[1])


def likelihood_ratio(target: Floats, references: References, patients: Ints) -> Floats:
    """log of P(films | model) / P(films) for each patient, (patients,): RMIA's ratio.

    P(film) is the mean over reference models, as many with the film as without (Zarifzadeh, Liu,
    Shokri, ICML 2024, arXiv 2312.03262, equation 10).
    """
    inside = references.members[:, patients]
    chance = expit(references.confidence)
    prior = (_means(chance, inside) + _means(chance, ~inside)) / 2
    return of_patients(_log_ratio(target, prior), patients, references.members.shape[1])


def ratio_of_strangers(target: Floats, references: Floats, patients: Ints) -> Floats:
    """The same for patients on whom no reference was trained: P(film) is the mean over all.

    references: confidences, (references, films).
    """
    return of_patients(_log_ratio(target, expit(references).mean(0)), patients, patients.max() + 1)


def _log_ratio(target: Floats, prior: Floats) -> Floats:
    """log(p / prior), bounded so that no film's chance of zero outweighs all others for ever."""
    ratio: Floats = log_expit(target) - np.log(np.maximum(prior, np.finfo(float).tiny))
    return np.clip(ratio, -_LARGEST_LOG, _LARGEST_LOG)


def rmia(ratio: Floats, strangers: Floats) -> Floats:
    """Share of `strangers` over whom each patient's ratio wins by `GAMMA`, (patients,).

    strangers: the ratios of patients on whom no model was trained. Equal shares are told apart by
    the ratio itself, within less than one stranger's worth: no rank of the paper's score changes.
    """
    wins = np.searchsorted(np.sort(strangers), ratio - math.log(GAMMA), side="right")
    score: Floats = (wins + 0.5 * expit(ratio)) / len(strangers)
    return score


def _means(values: Floats, which: Bools) -> Floats:
    mean: Floats = np.where(which, values, 0.0).sum(0) / which.sum(0)
    return mean


def _spread(residuals: Floats, which: Bools) -> float:
    """The common deviation, corrected for the mean that was taken from each film."""
    degrees = int(which.sum()) - residuals.shape[1]
    if degrees < 1:  # one reference each: what remains is zero everywhere
        return 1.0
    squares = float(np.square(residuals[which]).sum())
    return max(LEAST_SPREAD, math.sqrt(squares / degrees))


def _log_normal(x: Floats, mean: Floats, deviation: float) -> Floats:
    density: Floats = -0.5 * np.square((x - mean) / deviation) - math.log(deviation)
    return density
