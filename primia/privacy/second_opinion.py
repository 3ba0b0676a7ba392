"""ε by means that share nothing with the figure that decides: an upper and a lower bound on it.

*Above*: Rényi divergences of the Poisson-sampled Gaussian at whole orders, by the binomial sum of
Mironov, Talwar, Zhang (2019, arXiv 1908.10530, section 3.3), written out here; then the conversion
of Canonne, Kamath, Steinke (2020, arXiv 2004.00010, Proposition 12). *Below*: a privacy loss
distribution that is rounded optimistically, where the deciding one is rounded pessimistically.
The true ε lies between the two, and so must every honest claim's figure lie above the lower one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from primia.privacy.mechanism import DistributedDpSgd, Mechanism, merge

_ORDERS = (*range(2, 257), *range(264, 1025, 8))
_POINTS = 2e5  # of the distribution's grid at most: a second or two
_ROUNDED = 0.02  # of ε: what rounding all steps' losses down to the grid may take at most
_MANY_STEPS = 1_000_000


def epsilon_above(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """An upper bound on ε at `delta`; 0 for an empty list."""
    merged = merge(mechanisms)
    if not merged:
        return 0.0
    return max(0.0, min(_converted(_divergence(merged, a), a, delta) for a in _ORDERS))


def epsilon_below(mechanisms: Sequence[Mechanism], delta: float) -> float | None:
    """A lower bound on ε at `delta`; 0 for an empty list. It lies some one per cent too low for
    up to a few thousand steps, and farther for more.

    None where there is none to be had: for shared noise, whose discrete sums no such distribution
    is proved for, and for more steps or larger ε than it holds.
    """
    merged = merge(mechanisms)
    if not merged:
        return 0.0
    above = epsilon_above(merged, delta)
    discrete = any(isinstance(m, DistributedDpSgd) for m in merged)
    if discrete or above > 200 or sum(m.steps for m in merged) > _MANY_STEPS:
        return None
    # Imported late: it loads scipy.
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution as pld

    steps = sum(m.steps for m in merged)
    grid = max(_ROUNDED * above / steps, (above + 10) / _POINTS)
    parts = [
        pld.from_gaussian_mechanism(
            m.noise_multiplier,
            pessimistic_estimate=False,
            value_discretization_interval=grid,
            use_connect_dots=False,  # it rounds pessimistically
            sampling_prob=m.sampling_rate,
            neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        ).self_compose(m.steps)
        for m in merged
    ]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.compose(part)
    return float(whole.get_epsilon_for_delta(delta))


def _divergence(merged: Sequence[Mechanism], order: int) -> float:
    return math.fsum(m.steps * _of_step(m, order) for m in merged)


def _of_step(m: Mechanism, order: int) -> float:
    """log Σ_k C(α, k) (1 - q)^(α - k) q^k exp(k (k - 1) / 2σ²), over α - 1."""
    q, twice = m.sampling_rate, 2 * m.noise_multiplier**2
    if q == 1:
        return order / twice
    terms = [
        math.lgamma(order + 1)
        - math.lgamma(k + 1)
        - math.lgamma(order - k + 1)
        + (order - k) * math.log1p(-q)
        + k * math.log(q)
        + k * (k - 1) / twice
        for k in range(order + 1)
    ]
    largest = max(terms)
    return (largest + math.log(math.fsum(math.exp(t - largest) for t in terms))) / (order - 1)


def _converted(divergence: float, order: int, delta: float) -> float:
    return divergence + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
