"""How likely anybody can rebuild one patient's film from everything released: an upper bound.

    reconstruction_bound(mechanisms, prior) -> float

mechanisms: what was or will be released, as the ledger and `study_mechanism` have it; None among
    them stands for a release without noise, and then nothing bounds anything: 1.
prior: the chance of a guess that has seen nothing; 1/256 to name the right one of 256 films.

Reconstruction robustness (Balle, Cherubin, Hayes, IEEE S&P 2022; Hayes, Mahloujifar, Balle 2023,
arXiv 2302.07225): whoever knows all other patients, and draws the film from a set of candidates
that a blind guess gets right with probability κ, succeeds with probability 1 - T(κ) at most, T
being the trade-off function of "without this patient" against "with". For a µ-Gaussian mechanism
that is Φ(Φ⁻¹(κ) + µ) (Kaissis, Hayes, Ziller, Rueckert 2023, arXiv 2307.03928).

Poisson-sampled steps are not Gaussian, and their limit theorem is no bound. For them 1 - T(κ) is
taken from the privacy profile, since P(E) ≤ exp(ε) Q(E) + δ(ε) for every event and every ε. By
duality the smallest of these lines is 1 - T(κ) itself; with the accountant's pessimistic δ(ε) it
errs upwards only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

from primia.privacy.accounting import privacy_profile
from primia.privacy.mechanism import Mechanism

_GOLDEN = (math.sqrt(5) - 1) / 2
_TOLERANCE = 1e-3  # of ε at the minimum; any ε gives a bound, so this costs tightness alone


def reconstruction_bound(mechanisms: Sequence[Mechanism | None], prior: float) -> float:
    """The most likely success of rebuilding one patient's data, given `prior`; `prior` to 1.

    Raises ValueError when `prior` is not in (0, 1), StateError as `privacy_profile`.
    """
    _check(prior)
    known = [m for m in mechanisms if m is not None]
    if len(known) < len(mechanisms):
        return 1.0
    if not known:
        return prior
    delta = privacy_profile(known)
    # exp(ε) κ + δ(ε) is convex in exp(ε), so it falls, then rises. At ε = -ln κ it has passed 1.
    smallest = _minimum(lambda e: math.exp(e) * prior + delta(e), 0.0, -math.log(prior))
    return min(1.0, max(prior, smallest))


def gaussian_reconstruction_bound(mu: float, prior: float) -> float:
    """The same for a mechanism that is µ-Gaussian DP, in closed form.

    Raises ValueError when `prior` is not in (0, 1) or `mu` is negative.
    """
    _check(prior)
    if not mu >= 0:
        raise ValueError(f"mu {mu}: must not be negative")
    normal = NormalDist()
    return normal.cdf(normal.inv_cdf(prior) + mu)


def _check(prior: float) -> None:
    if not 0 < prior < 1:
        raise ValueError(f"prior {prior}: must lie between 0 and 1")


def _minimum(value: Callable[[float], float], low: float, high: float) -> float:
    """The least value seen by golden-section search, both ends included."""
    best = min(value(low), value(high))
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = value(left), value(right)
    while high - low > _TOLERANCE:
        best = min(best, at_left, at_right)
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = value(right)
    return min(best, at_left, at_right)
