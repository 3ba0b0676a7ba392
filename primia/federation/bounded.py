"""How far the rounds of a study can move the global model: the rule by which a site takes one.

A coordinator that means to read films out of updates has to hand out weights made for it (Fishing,
Wen et al., ICML 2022; SEER, Garov et al., ICLR 2024). Such weights lie far from those of before,
while a round moves the model by no more than the server's step over the longest mean update that
the coordinator's own check of a sum lets pass. So an honest study is never refused, and there is no
rate of false alarms to choose. What stays within the reach is not seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from primia.federation.optimiser import FedAdam, FedAvg, Vector

SAME = 1e-5
"""Two weights this close count as one: machines and rounding differ in the last bits."""


@dataclass(frozen=True)
class Reach:
    """How far something lies from where it started, at most.

    norm: L2 norm over all coordinates. coordinate: of any single one.
    """

    norm: float
    coordinate: float

    def __mul__(self, times: float) -> Reach:
        return Reach(self.norm * times, self.coordinate * times)

    @classmethod
    def between(cls, one: Vector, other: Vector) -> Self:
        """The distance of two models."""
        apart = one.astype(np.float64)
        apart -= other
        return cls(float(np.linalg.norm(apart)), _farthest(apart))

    def covers(self, other: Reach) -> bool:
        """Whether `other` is no farther, by norm and by coordinate."""
        return other.norm <= self.norm and other.coordinate <= self.coordinate


def reach_of_step(
    optimiser: FedAvg | FedAdam, mean: Reach, *, parameters: int, rounds: int
) -> Reach:
    """How far one step of the server moves the weights, whatever its moments hold by then.

    mean: of the longest mean update that counts. rounds: of the whole study, so steps at most.

    FedAvg: the momentum adds up to (1 - m^rounds) / (1 - m) mean updates. FedAdam: the first moment
    is an average, so no longer than `mean`, and is divided by tau at least; and by Cauchy-Schwarz
    no coordinate of it is more than (1 - β1) / √(1 - β2) · √Σ (β1² / β2)^j times the root of the
    second moment.
    """
    if isinstance(optimiser, FedAvg):
        return mean * (optimiser.learning_rate * _geometric(optimiser.momentum, rounds))
    ratio = optimiser.beta1**2 / optimiser.beta2 if optimiser.beta2 else math.inf
    ratio = ratio if optimiser.beta1 else 0.0
    most = (1 - optimiser.beta1) / math.sqrt(1 - optimiser.beta2)
    most *= math.sqrt(_geometric(ratio, rounds))
    coordinate = min(most, mean.coordinate / optimiser.tau)
    norm = min(most * math.sqrt(parameters), mean.norm / optimiser.tau)
    return Reach(norm, coordinate) * optimiser.learning_rate


def can_have_become(new: Vector, old: Vector, step: Reach, *, steps: int) -> tuple[bool, Reach]:
    """Whether `steps` steps lead from `old` to `new`, and how far they are apart.

    The weights are float32: each step also rounds, by 2^-24 of a weight at most.
    """
    apart = Reach.between(new, old)
    rounded = steps * 2.0**-23
    slack = Reach(
        SAME * math.sqrt(new.size) + rounded * float(np.linalg.norm(old)),
        SAME + rounded * _farthest(old),
    )
    room = step * (max(0, steps) * (1 + 1e-5))
    allowed = Reach(room.norm + slack.norm, room.coordinate + slack.coordinate)
    return allowed.covers(apart), apart


def _geometric(ratio: float, terms: int) -> float:
    """1 + ratio + … with so many terms; infinite when it passes every float."""
    if ratio == 1 or terms == 1:
        return float(terms)
    if math.isinf(ratio):
        return math.inf
    try:
        return (1 - ratio**terms) / (1 - ratio)
    except OverflowError:
        return math.inf


def _farthest(values: npt.NDArray[np.floating]) -> float:
    return float(max(values.max(), -values.min())) if values.size else 0.0
