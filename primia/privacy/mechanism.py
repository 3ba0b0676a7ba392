"""What was released, as data: the accountant prices it, the ledger stores it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, order=True)
class DpSgd:
    """`steps` noisy gradient sums over Poisson-sampled patients (Abadi et al., CCS 2016).

    sampling_rate: a patient's chance to be in one step's batch, in (0, 1]; 1 is plain Gaussian.
    noise_multiplier: standard deviation of the noise over the L2 bound on one patient, above 0.
    steps: how many such sums were released, at least 1; an empty batch counts as one.

    Raises ValueError when a number is outside its range.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"sampling_rate {self.sampling_rate}: must lie in (0, 1]")
        if not (self.noise_multiplier > 0 and math.isfinite(self.noise_multiplier)):
            raise ValueError(f"noise_multiplier {self.noise_multiplier}: must be above 0")
        if self.steps < 1:
            raise ValueError(f"steps {self.steps}: must be at least 1")


def merge(mechanisms: Iterable[DpSgd]) -> tuple[DpSgd, ...]:
    """Add up the steps of equal mechanisms; sorted, so that the order of release is forgotten.

    Composition does not depend on the order, and one self-composed mechanism is far cheaper to
    price than its steps one by one.
    """
    steps: dict[tuple[float, float], int] = {}
    first: dict[tuple[float, float], DpSgd] = {}
    for m in mechanisms:
        key = (m.sampling_rate, m.noise_multiplier)
        steps[key] = steps.get(key, 0) + m.steps
        first.setdefault(key, m)
    return tuple(sorted(replace(m, steps=steps[key]) for key, m in first.items()))
