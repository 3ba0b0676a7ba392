"""What one site puts into a round's sum: update | weight | metrics | vote, as words of a ring.

Everything a site says about its patients is inside these vectors and so under the mask: its update,
its weight (a patient count, or 1), its evaluation counts and its vote. Nothing travels beside them
in clear.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from primia.errors import RoundFailed
from primia.federation import ballot
from primia.federation.bounded import Reach
from primia.secagg.encoding import (
    decode_counts,
    decode_sum,
    encode,
    encode_counts,
    encoding_step,
    largest,
)
from primia.secagg.layout import Layout, Vector
from primia.types import Ring

Floats = npt.NDArray[np.float64]
Entropy = Callable[[int], bytes]
DrawNoise = Callable[[int, int], npt.NDArray[np.int64]]
"""(variance, count) -> independent samples of integer noise of that variance, int64 (count,)."""

DEVIATIONS = 12
"""How far out honest noise is still believed: beyond lies 4e-33 of a Gaussian, so that not even
among 10^7 coordinates of 10^4 rounds a sum of honest sites is discarded for it."""


@dataclass(frozen=True)
class Aggregate:
    """What the sum over the contributing sites says."""

    mean_update: Floats  # (parameters,), weighted; zeros in an evaluation
    weight: int  # total, in units of the plan's weighting
    metrics: npt.NDArray[np.int64]  # (metrics,), summed counts
    votes: int  # how many of the contributors accept the model the round started from


@dataclass(frozen=True, eq=False)
class SharedNoise:
    """Noise to which each site adds a share, as integers, in the ring.

    What the sites encode is then the clipped sum of one step's gradients, and the update is the
    mean of these sums times `gain`.

    variance: of one site's share, in squared encoding steps.
    learns: bool (parameters,), the coordinates that are noised; the others are zero at every site
        and stay so, because noise there would move weights that do not learn.
    """

    variance: int
    gain: float
    learns: npt.NDArray[np.bool_]

    @property
    def coordinates(self) -> int:
        """How many coordinates are noised."""
        return int(np.count_nonzero(self.learns))

    def deviation(self, sites: int) -> float:
        """Of a coordinate of the sum over `sites`, in encoding steps."""
        return math.sqrt(sites * self.variance)

    def room(self, *, sites: int, wire_bits: int) -> tuple[int, int]:
        """What the ring holds of one site's coordinate beside the noise of all: its bits, and the
        largest integer of so many bits; (0, 0) when that is not even one step."""
        left = (largest(wire_bits) - DEVIATIONS * self.deviation(sites)) / sites
        bits = next((b for b in range(wire_bits, 1, -1) if largest(b) <= left), 0)
        return bits, largest(bits) if bits else 0


@dataclass(frozen=True, eq=False)
class Contribution:
    """How a study's contributions are laid out and encoded; fixed by the plan.

    bits, value_range: signed fixed point of one coordinate of the update.
    wire_bits: the ring that updates live in; its words carry so many bits.
    max_weight: 1 for equal weights; else the largest patient count a site may have. An update is
        scaled by weight / max_weight before encoding, so that its range does not grow.
    stochastic: round at random instead of to nearest.
    update_norm: L2 norm that a site scales its update down to, None for no bound.
    shared: noise in the ring; None where updates are noised before they come here, or not at all.
    """

    parameters: int
    metrics: int
    bits: int
    value_range: float
    wire_bits: int = 32
    max_weight: int = 1
    stochastic: bool = False
    update_norm: float | None = None
    shared: SharedNoise | None = None

    @cached_property
    def layout(self) -> Layout:
        """The vectors, each under masks of its own."""
        return Layout(
            (
                Vector("update", self.parameters, self.wire_bits),
                Vector("weight", 1),
                Vector("metrics", self.metrics),
                Vector("vote", ballot.LENGTH),
            )
        )

    def encode(
        self,
        update: npt.NDArray[np.float32] | None,
        *,
        weight: int,
        metrics: npt.NDArray[np.int64],
        vote: bool = True,
        entropy: Entropy = os.urandom,
        noise: DrawNoise | None = None,
    ) -> tuple[Ring, int]:
        """One site's words, and how many coordinates of its update were clipped to the range.

        update: shape (parameters,), or None when only metrics are asked for.
        vote: whether this site accepts the model that the round started from.
        entropy: for random rounding and for the ballot. noise: draws this site's share; it must be
            given with an update exactly where the plan shares noise.
        Raises ValueError when the weight or a shape does not fit the plan.
        """
        if not 0 < weight <= self.max_weight:
            raise ValueError(f"weight {weight} is outside 1..{self.max_weight} (max_patients)")
        if metrics.shape != (self.metrics,):
            raise ValueError(f"metrics: got {metrics.shape}, the plan's have ({self.metrics},)")
        words, clipped = np.zeros(self.layout.length, np.uint32), 0
        parts = self.layout.split(words)
        if update is not None:
            if (noise is None) != (self.shared is None):
                raise ValueError("noise is drawn here exactly where the plan shares it among sites")
            values = self._scaled(update, weight / self.max_weight)
            clipped = self._clip_in_place(values, weight / self.max_weight)
            ring, outside = encode(
                values,
                bits=self.bits,
                value_range=self.value_range,
                entropy=entropy if self.stochastic else None,
                out=parts["update"],
            )
            clipped += outside
            if self.shared is not None and noise is not None:
                share = noise(self.shared.variance, self.shared.coordinates)
                ring[self.shared.learns] += share.astype(np.uint32)  # wraps, and so does the ring
        parts["weight"][:] = encode_counts(np.array([weight]))
        parts["metrics"][:] = encode_counts(metrics)
        parts["vote"][:] = encode_counts(ballot.cast(vote, entropy))
        return words, clipped

    def _scaled(
        self, update: npt.NDArray[np.float32], factor: float
    ) -> npt.NDArray[np.float32] | Floats:
        """In float64, within the norm: a projection onto a ball, so that what changed by some
        distance before changes by no more after."""
        if factor == 1 and self.update_norm is None:
            return update
        values = update.astype(np.float64)
        if self.update_norm is not None:
            norm = float(np.linalg.norm(values))
            factor *= min(1.0, self.update_norm / norm) if norm > 0 else 1.0
        values *= factor
        return values

    def _clip_in_place(self, values: npt.NDArray[np.float32] | Floats, share: float) -> int:
        """To a share of the range for a share of the largest weight, as `decode` will check.

        Returns how many coordinates lay outside. The whole range is left to the encoding, and so
        is what is not finite: it refuses that.
        """
        if share == 1 or not np.isfinite(values).all():
            return 0
        limit = share * self.value_range
        outside = int(np.count_nonzero(np.abs(values) > limit))
        np.clip(values, -limit, limit, out=values)
        return outside

    def decode(self, total: Ring, *, contributors: int) -> Aggregate:
        """Read the sum over `contributors` sites, all sites of a round or those of one group.

        Raises RoundFailed when the sum is outside what honest sites can have produced.
        """
        parts = self.layout.split(total)
        weight = int(decode_counts(parts["weight"])[0])
        if not contributors <= weight <= contributors * self.max_weight:
            raise RoundFailed(
                f"the weights of {contributors} sites add up to {weight}, outside what the plan "
                f"allows; a site did not follow it"
            )
        sums = self._decode_update(parts["update"], contributors)
        self._check_range(sums, contributors, weight / self.max_weight)
        self._check_norm(sums, contributors, weight / self.max_weight)
        sums *= self.max_weight / weight * (1.0 if self.shared is None else self.shared.gain)
        votes = ballot.tally(decode_counts(parts["vote"]).astype(np.int64), contributors)
        return Aggregate(sums, weight, decode_counts(parts["metrics"]), votes)

    def _decode_update(self, ring: Ring, contributors: int) -> Floats:
        """The sum in units of the update, each coordinate checked."""
        sums = decode_sum(
            ring,
            bits=self.bits,
            value_range=self.value_range,
            ring_bits=self.wire_bits,
            sites=contributors if self.shared is None else None,
        )
        if self.shared is not None:
            band = DEVIATIONS * self.shared.deviation(contributors)
            farthest = max(sums.max(), -sums.min()) / self._step
            still = sums[~self.shared.learns]
            if farthest > contributors * largest(self.bits) + band or still.any():
                raise RoundFailed(
                    f"the sum lies outside what {contributors} sites and their noise can add up "
                    "to; discard it and run the round again"
                )
        return sums

    def _check_range(self, sums: Floats, contributors: int, weight: float) -> None:
        """Each coordinate against the sum of the weights, which may be below what was weighed in:
        divided by a weight that one site has talked down, it would be out of range.

        weight: in units of the largest one. Rounding adds less than a step for each site.
        """
        if self.shared is not None:  # its weights are equal, and `_decode_update` knows its noise
            return
        allowed = weight * self.value_range * (1 + 1e-9) + contributors * self._step
        farthest = float(max(sums.max(), -sums.min()))
        if farthest > allowed:
            raise RoundFailed(
                f"a coordinate of the sum of {contributors} updates is {farthest:.4g}, above the "
                f"{allowed:.4g} that their weights allow; a site did not follow the plan"
            )

    def _check_norm(self, sums: Floats, contributors: int, weight: float) -> None:
        """The whole sum's length against what its parts may have, their rounding and noise.

        weight: in units of the largest one. Every coordinate of every site is rounded by half a
        step at most, by a whole one at random. A Gaussian vector of d coordinates is √d deviations
        long; it is `DEVIATIONS` more with a chance of exp(-72).
        """
        if self.update_norm is None:
            return
        rounding = (1.0 if self.stochastic else 0.5) * contributors * math.sqrt(self.parameters)
        noise = 0.0
        if self.shared is not None:
            noise = self.shared.deviation(contributors)
            noise *= math.sqrt(self.shared.coordinates) + DEVIATIONS
        allowed = weight * self.update_norm * (1 + 1e-9) + (rounding + noise) * self._step
        norm = float(np.linalg.norm(sums))
        if norm > allowed:
            raise RoundFailed(
                f"the sum of {contributors} updates has norm {norm:.4g}, above the {allowed:.4g} "
                "that the plan's bound on each allows; a site did not follow it"
            )

    def longest_mean(self, contributors: int) -> Reach:
        """The farthest mean update that `decode` lets pass of so many contributors or more: its
        checks of the sum, divided by the smallest weight that they allow."""
        rounding = 1.0 if self.stochastic else 0.5
        if self.shared is None:
            step = self._step * self.max_weight  # of one site with the smallest weight
            coordinate = self.value_range * (1 + 1e-9) + step
            norm = math.sqrt(self.parameters) * coordinate
            if self.update_norm is not None:
                rounded = rounding * math.sqrt(self.parameters) * step
                norm = min(norm, self.update_norm * (1 + 1e-9) + rounded)
            return Reach(norm, coordinate)
        deviation = self.shared.deviation(contributors) / contributors
        gain, band = abs(self.shared.gain), DEVIATIONS * deviation
        coordinate = gain * self._step * (largest(self.bits) + band)
        norm = math.sqrt(self.parameters) * coordinate
        if self.update_norm is not None:
            noise = deviation * (math.sqrt(self.shared.coordinates) + DEVIATIONS)
            rounded = (rounding * math.sqrt(self.parameters) + noise) * self._step
            norm = min(norm, gain * (self.update_norm * (1 + 1e-9) + rounded))
        return Reach(norm, coordinate)

    @property
    def _step(self) -> float:
        return encoding_step(bits=self.bits, value_range=self.value_range)
