"""What one site puts into a round's sum: update | weight | metrics, as one vector over Z_{2^32}.

Everything a site says about its patients is inside this vector and so under the mask: its update,
its weight (a patient count, or 1) and its evaluation counts. Nothing travels beside it in clear.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from primia.errors import RoundFailed
from primia.secagg.encoding import decode_counts, decode_sum, encode, encode_counts
from primia.secagg.layout import Layout
from primia.types import Ring


@dataclass(frozen=True)
class Aggregate:
    """What the sum over the contributing sites says."""

    mean_update: npt.NDArray[np.float64]  # (parameters,), weighted; zeros in an evaluation
    weight: int  # total, in units of the plan's weighting
    metrics: npt.NDArray[np.int64]  # (metrics,), summed counts


@dataclass(frozen=True)
class Contribution:
    """How a study's contributions are laid out and encoded; fixed by the plan.

    bits, value_range: signed fixed point of one coordinate of the update.
    max_weight: 1 for equal weights; else the largest patient count a site may have. An update is
        scaled by weight / max_weight before encoding, so that its range does not grow.
    """

    parameters: int
    metrics: int
    bits: int
    value_range: float
    max_weight: int = 1

    @property
    def layout(self) -> Layout:
        """Segments of the vector."""
        return Layout((("update", self.parameters), ("weight", 1), ("metrics", self.metrics)))

    def encode(
        self,
        update: npt.NDArray[np.float32] | None,
        *,
        weight: int,
        metrics: npt.NDArray[np.int64],
    ) -> tuple[Ring, int]:
        """One site's vector, and how many coordinates of its update were clipped to the range.

        update: shape (parameters,), or None when only metrics are asked for.
        Raises ValueError when the weight or a shape does not fit the plan.
        """
        if not 0 < weight <= self.max_weight:
            raise ValueError(f"weight {weight} is outside 1..{self.max_weight} (max_patients)")
        if update is None:
            update = np.zeros(self.parameters, np.float32)
        scaled = update * np.float32(weight / self.max_weight)
        ring, clipped = encode(scaled, bits=self.bits, value_range=self.value_range)
        parts = {
            "update": ring,
            "weight": encode_counts(np.array([weight])),
            "metrics": encode_counts(metrics),
        }
        return self.layout.concatenate(parts), clipped

    def decode(self, total: Ring, *, contributors: int) -> Aggregate:
        """Read the sum over `contributors` sites.

        Raises RoundFailed when the sum is outside what honest sites can have produced.
        """
        parts = self.layout.split(total)
        weight = int(decode_counts(parts["weight"])[0])
        if not contributors <= weight <= contributors * self.max_weight:
            raise RoundFailed(
                f"the weights of {contributors} sites add up to {weight}, outside what the plan "
                f"allows; a site did not follow it"
            )
        sums = decode_sum(
            parts["update"], bits=self.bits, value_range=self.value_range, sites=contributors
        )
        return Aggregate(sums * (self.max_weight / weight), weight, decode_counts(parts["metrics"]))
