"""How much of each unit's gradient enters the sum: one L2 bound, three ways to share it.

Each gives factors so that a unit's gradient, scaled group by group, has L2 norm at most
`clip_norm` over all parameters together: that is the sensitivity of the sum to adding or removing
the unit. A group is one layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from primia.errors import ConfigError

CLIP_MARGIN = 1e-3
"""Clip a little below the bound: float32 norms are rounded, the sensitivity must not be."""

_SMALLEST, _LARGEST = 1e-12, 1e12  # squares of float32 have to hold a bound

KINDS = ("flat", "per-layer", "automatic")


class Clipping(Protocol):
    """A rule for the factors, and its bound."""

    @property
    def clip_norm(self) -> float:
        """L2 sensitivity of the clipped sum."""

    def factors(self, squared: torch.Tensor) -> torch.Tensor:
        """From squared norms to factors, both (groups, units), not negative."""


def _check(clip_norm: float) -> None:
    if not _SMALLEST <= clip_norm <= _LARGEST:
        raise ConfigError(f"clip_norm {clip_norm}: must be from {_SMALLEST:g} to {_LARGEST:g}")


@dataclass(frozen=True)
class Flat:
    """Scale down what is longer than the bound (Abadi et al., CCS 2016)."""

    clip_norm: float

    def __post_init__(self) -> None:
        _check(self.clip_norm)

    def factors(self, squared: torch.Tensor) -> torch.Tensor:
        norms = squared.sum(0).sqrt()
        bound = self.clip_norm * (1 - CLIP_MARGIN)
        return (bound / norms.clamp_min(1e-30)).clamp_max(1.0).expand_as(squared)


@dataclass(frozen=True)
class PerLayer:
    """Each layer apart, to clip_norm / sqrt(layers) (McMahan et al., ICLR 2018)."""

    clip_norm: float

    def __post_init__(self) -> None:
        _check(self.clip_norm)

    def factors(self, squared: torch.Tensor) -> torch.Tensor:
        bound = self.clip_norm * (1 - CLIP_MARGIN) / math.sqrt(squared.shape[0])
        return (bound / squared.sqrt().clamp_min(1e-30)).clamp_max(1.0)


@dataclass(frozen=True)
class Automatic:
    """Bring every gradient to nearly the bound (Bu et al., NeurIPS 2023, arXiv 2206.07136).

    clip_norm · g / (|g| + stability): nothing to tune against the gradients' size.
    """

    clip_norm: float
    stability: float = 0.01

    def __post_init__(self) -> None:
        _check(self.clip_norm)
        if not (self.stability > 0 and math.isfinite(self.stability)):
            raise ConfigError(f"stability {self.stability}: must be a number above 0")

    def factors(self, squared: torch.Tensor) -> torch.Tensor:
        norms = squared.sum(0).sqrt()
        bound = self.clip_norm * (1 - CLIP_MARGIN)
        return (bound / (norms + self.stability)).expand_as(squared)


def clipping_by_name(kind: str, clip_norm: float) -> Clipping:
    """Flat, per-layer or automatic clipping. Raises ConfigError for another name."""
    match kind:
        case "flat":
            return Flat(clip_norm)
        case "per-layer":
            return PerLayer(clip_norm)
        case "automatic":
            return Automatic(clip_norm)
    raise ConfigError(f"clipping {kind!r}: unknown; choose one of {', '.join(KINDS)}")


class AdaptiveQuantile:
    """Flat clipping whose bound follows a quantile of the norms (Andrew et al., NeurIPS 2021).

    After each step the bound moves towards where the share `quantile` of the units is within it,
    geometrically, from a count with Gaussian noise `count_noise` that the accounting includes.

    clip_norm: the bound to start from; the only state, and released by its noise.
    count_noise: standard deviation on the sum over units of (within the bound) - 1/2; the paper
        takes a twentieth of the expected batch.
    """

    def __init__(
        self,
        clip_norm: float,
        *,
        count_noise: float,
        quantile: float = 0.5,
        learning_rate: float = 0.2,
    ) -> None:
        _check(clip_norm)
        if not 0 < quantile < 1:
            raise ConfigError(f"quantile {quantile}: must lie between 0 and 1")
        if not (0 < count_noise < math.inf and 0 < learning_rate < math.inf):
            raise ConfigError("count_noise and learning_rate must be above 0")
        self.clip_norm = clip_norm
        self.count_noise = count_noise
        self.quantile = quantile
        self.learning_rate = learning_rate

    def factors(self, squared: torch.Tensor) -> torch.Tensor:
        """As for `Flat`, with the present bound."""
        return Flat(self.clip_norm).factors(squared)

    def adapt(self, noised_count: float, expected_units: float) -> None:
        """Move the bound, given the noised sum of (within) - 1/2 over about so many units; by a
        factor e a step at most."""
        share = noised_count / expected_units + 0.5
        exponent = -self.learning_rate * (share - self.quantile)
        moved = self.clip_norm * math.exp(min(1.0, max(-1.0, exponent)))
        self.clip_norm = min(_LARGEST, max(_SMALLEST, moved))
