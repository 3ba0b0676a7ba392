"""From what was seen of canaries to a lower bound on ε, twice: no torch, no state.

A canary is a patient that a fair coin puts in or leaves out, and whose score says how much of it
an onlooker sees in what was released.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Coins = npt.NDArray[np.bool_]

_LARGEST_MU = 100.0  # ε of some 5,400; no figure beyond means anything
_LARGEST_EPSILON = 100.0  # of the rank bound: beyond what any number of canaries shows


def error_rate(z: float) -> float:
    """How often a one-sided bound `z` deviations out is wrong: 0.001 for 3.09."""
    return NormalDist().cdf(-z)


@dataclass(frozen=True)
class GaussianFit:
    """µ of the Gaussian mechanism that such scores come from: an estimate, a lower bound."""

    mu: float
    lower: float

    def epsilon(self, delta: float) -> float:
        """The lower bound as ε at `delta`."""
        return epsilon_of_mu(self.lower, delta)


def fit_gaussian(scores: Scores, included: Coins, z: float) -> GaussianFit:
    """Distance of the two means in deviations, and what it is at least but once in 1 / Φ(-z).

    Both groups are taken as Gaussian, which the sum of a canary's place and Gaussian noise is.
    Where their deviations differ (a sampled canary varies) the larger one counts: smaller bounds.
    The variance of the estimate is that of two means and of one sample deviation.
    """
    inside, outside = scores[included], scores[~included]
    fewest = min(inside.size, outside.size)
    if fewest < 2:
        return GaussianFit(0.0, 0.0)
    deviation = max(float(inside.std(ddof=1)), float(outside.std(ddof=1)))
    distance = float(inside.mean() - outside.mean())
    mu = min(_LARGEST_MU, distance / max(deviation, 1e-12))
    error = math.sqrt(1 / inside.size + 1 / outside.size + mu**2 / (2 * fewest))
    return GaussianFit(mu, mu - z * error)


def epsilon_of_mu(mu: float, delta: float) -> float:
    """ε at `delta` of a µ-Gaussian mechanism (Balle and Wang 2018), 0 for µ of 0 and below."""
    if mu <= 0:
        return 0.0
    from dp_accounting import get_epsilon_gaussian

    return max(0.0, float(get_epsilon_gaussian(1 / min(mu, _LARGEST_MU), delta)))


def rank_bound(
    scores: Scores, included: Coins, *, guesses: int, delta: float, failure: float
) -> float:
    """ε is at least this, but with probability `failure`: one run, no assumption on the noise.

    Steinke, Nasr, Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023, Theorem
    5.2: the `guesses` / 2 highest scores are guessed in, as many lowest out; guesses is fixed
    before anything is looked at. It sees gross errors only.
    """
    half = guesses // 2
    order = np.argsort(scores, kind="stable")
    correct = int(included[order[order.size - half :]].sum() + (~included[order[:half]]).sum())
    low, high = 0.0, _LARGEST_EPSILON
    if _chance(0.0, delta, scores.size, 2 * half, correct) >= failure:
        return 0.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        if _chance(middle, delta, scores.size, 2 * half, correct) < failure:
            low = middle
        else:
            high = middle
    return low


def _chance(epsilon: float, delta: float, canaries: int, guesses: int, correct: int) -> float:
    """The most likely that an (ε, δ) mechanism lets so many guesses be right."""
    from scipy.stats import binom

    right = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, right))
    steps = np.arange(1, correct + 1)
    below = np.cumsum(binom.pmf(correct - steps, guesses, right))  # P[correct - i ≤ X < correct]
    worst = float((below / steps).max()) if correct else 0.0
    return min(1.0, tail + 2 * canaries * delta * worst)
