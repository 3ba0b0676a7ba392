"""How a clipped sum becomes integers, and how much noise each site has to add to them.

Each site adds a share of discrete Gaussian noise in the ring before masking, so that the sum over
the sites, which is all that is ever seen, holds noise once and not once for each site. Kairouz,
Liu, Steinke, "The distributed discrete Gaussian mechanism for federated learning with secure
aggregation", ICML 2021 (arXiv 2102.06387); docs/privacy.md has the argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from primia.errors import ConfigError
from primia.privacy.discrete_gaussian import LARGEST_VARIANCE

STEPS_PER_CLIP_NORM = 100
"""Clip norms are so many times √coordinates steps long: rounding then adds 1 % to the sensitivity
and so to the noise."""

SMALLEST_VARIANCE = 100
"""From here on a sum of n discrete Gaussians is one, to a factor within 1 ± 10 n exp(-987) of every
probability: no figure of any accountant shows it."""


@dataclass(frozen=True)
class NoiseShare:
    """step: length of one integer step, in units of the gradient.
    sensitivity: L2 distance, in steps, of the rounded sums of neighbours.
    variance: of one site's share of noise, in squared steps.
    """

    step: float
    sensitivity: float
    variance: int


def noise_share(
    *, clip_norm: float, coordinates: int, noise_multiplier: float, honest: int
) -> NoiseShare:
    """The share with which any `honest` sites together hold `noise_multiplier` times the
    sensitivity.

    clip_norm: L2 bound on what one patient adds to a sum, in units of the gradient.
    coordinates: how many numbers of the gradient learn and are noised, d.
    honest: sites in the smallest sum that keep their share to themselves.

    Two neighbours' sums, at most C / step apart, are rounded coordinate by coordinate, each by half
    a step at most: they end C / step + √d apart at most.

    Raises ConfigError when the variance is beyond what the sampler draws.
    """
    if not (coordinates >= 1 and honest >= 1):
        raise ValueError(f"coordinates {coordinates}, honest {honest}: need at least 1 each")
    per_clip_norm = STEPS_PER_CLIP_NORM * math.sqrt(coordinates)
    sensitivity = per_clip_norm + math.sqrt(coordinates)
    needed = (noise_multiplier * sensitivity) ** 2 / honest
    # A millionth more than enough, against the rounding of these few products.
    variance = max(SMALLEST_VARIANCE, math.ceil(needed * (1 + 1e-6)))
    if variance > LARGEST_VARIANCE:
        raise ConfigError(
            f"privacy.noise: distributed with noise multiplier {noise_multiplier:g} over "
            f"{coordinates} weights needs noise of variance {variance:.3g}, above "
            f"{LARGEST_VARIANCE:g}; take more steps with less noise, or fewer weights"
        )
    return NoiseShare(clip_norm / per_clip_norm, sensitivity, variance)
