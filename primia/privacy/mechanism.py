"""What was released, as data: the accountant prices it, the ledger stores it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, order=True)
class _NoisySums:
    """What the two kinds below have in common; never made itself."""

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


@dataclass(frozen=True, order=True)
class DpSgd(_NoisySums):
    """`steps` noisy gradient sums over Poisson-sampled patients (Abadi et al., CCS 2016).

    sampling_rate: a patient's chance to be in one step's batch, in (0, 1]; 1 is plain Gaussian.
    noise_multiplier: standard deviation of the noise over the L2 bound on one patient, above 0.
    steps: how many such sums were released, at least 1; an empty batch counts as one.

    Raises ValueError when a number is outside its range.
    """


@dataclass(frozen=True, order=True)
class DistributedDpSgd(_NoisySums):
    """`steps` gradient sums over all sites, each noised by all sites together: sums of integers
    with discrete Gaussian noise, of which each site adds a share (Kairouz, Liu, Steinke, ICML
    2021).

    noise_multiplier: what the shares of the honest sites alone amount to, over the L2 bound on one
        patient after rounding. `distributed.noise_share` makes shares that keep it.
    sampling_rate, steps, errors: as for `DpSgd`.

    It is priced by RDP at whole orders only: that is what is proved for discrete noise under
    Poisson sampling (docs/privacy.md).
    """


Mechanism = DpSgd | DistributedDpSgd


def merge(mechanisms: Iterable[Mechanism]) -> tuple[Mechanism, ...]:
    """Add up the steps of equal mechanisms; sorted, so that the order of release is forgotten.

    Composition does not depend on the order, and one self-composed mechanism is far cheaper to
    price than its steps one by one.
    """
    steps: dict[tuple[str, float, float], int] = {}
    first: dict[tuple[str, float, float], Mechanism] = {}
    for m in mechanisms:
        key = (type(m).__name__, m.sampling_rate, m.noise_multiplier)
        steps[key] = steps.get(key, 0) + m.steps
        first.setdefault(key, m)
    return tuple(replace(first[key], steps=steps[key]) for key in sorted(first))


def gradient_noise_multiplier(noise_multiplier: float, count_noise: float) -> float:
    """The gradient's own noise multiplier when one step also releases a noised count of patients.

    Adaptive quantile clipping (Andrew, Thakkar, McMahan, Ramaswamy, NeurIPS 2021, Theorem 1;
    arXiv 1905.03871) needs to know how many patients stayed within the clip norm C. With b_i = 1
    for a patient within and 0 otherwise, a step releases

        Σ g_i + N(0, (z_g · C)²)   and   Σ (b_i - 1/2) + N(0, σ_b²).

    In units of their noise the pair is one Gaussian sum with unit noise: patient i adds the vector
    [g_i / (z_g · C), (b_i - 1/2) / σ_b], of length at most sqrt(z_g⁻² + (2 · σ_b)⁻²). That is the
    sensitivity 1/z of `DpSgd` with noise multiplier z when z_g = (z⁻² - (2 · σ_b)⁻²)^(-1/2), and
    then the pair costs what a gradient alone costs with z. Centring by 1/2 halves the count's part.

    noise_multiplier: z, the total; it is what `DpSgd` holds and the ledger charges.
    count_noise: σ_b, standard deviation of the noise on the centred count, above z/2.
    Gives back z_g, above z: the gradient pays for the count with more noise.

    Raises ValueError when the count alone would cost as much as z allows, or more.
    """
    if not (noise_multiplier > 0 and math.isfinite(noise_multiplier)):
        raise ValueError(f"noise_multiplier {noise_multiplier}: must be above 0")
    if not 2 * count_noise > noise_multiplier:
        raise ValueError(
            f"count_noise {count_noise}: must be above half the noise multiplier "
            f"{noise_multiplier}, or nothing is left for the gradient"
        )
    return 1 / math.sqrt(noise_multiplier**-2 - (2 * count_noise) ** -2)
