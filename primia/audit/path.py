"""The way of a patient's gradient out of a hospital, walked by canaries in the product's own code.

`contribute.vector_of` samples, clips, sums, noises and encodes; `SiteRound` and `CoordinatorRound`
mask, sum and unmask (`masked_sum`); `Contribution` decodes. Nothing is done here in their place:
what is broken in them is broken here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from torch import nn

from primia.audit.canaries import LAYERS, SIZE, WIDTH, Canaries, Ids
from primia.audit.masked import masked_sum
from primia.config.plan import ModelTerms, StudyPlan, colluding_withstood
from primia.contribute import vector_of
from primia.errors import ConfigError, RoundFailed
from primia.federation.contribution import Aggregate, Contribution
from primia.learning.models import flatten
from primia.learning.terms import is_distributed, noise_multiplier, share_of_noise
from primia.protocol.messages import RoundKind
from primia.secagg.encoding import encoding_step
from primia.secagg.layout import Layout
from primia.study import contribution
from primia.types import Ring

Floats = npt.NDArray[np.float64]
_SITES = 5  # take part in a sum at most: the path is the same for more


def rehearsed(plan: StudyPlan, *, rate: float, steps: int, most_patients: int) -> StudyPlan:
    """`plan` with so many steps a round at this rate, on canaries' films, among few sites.

    Clipping, noise, divisor, rounding and bits of a coordinate are the plan's. Raises ConfigError
    for a plan without privacy, and as `noise_multiplier`.
    """
    noise = noise_multiplier(plan)
    if plan.privacy == "none" or noise is None:
        raise ConfigError("privacy: none claims nothing that an audit could refute")
    among = plan.sites[:_SITES]
    quorum = min(plan.schedule.quorum, len(among))
    privacy: dict[str, object] = {"noise_multiplier": noise, "target_epsilon": None}
    aggregation: dict[str, object] = {"groups": 1}
    if is_distributed(plan):
        quorum = len(among) if quorum < len(plan.sites) else quorum
        most = colluding_withstood(len(among))
        privacy["colluding_sites"] = max(1, min(plan.colluding_sites, most, quorum - 1))
    else:
        aggregation["encoding_bits"] = plan.update_bits
    if plan.aggregation.max_patients is not None:
        aggregation["max_patients"] = max(plan.aggregation.max_patients, most_patients)
    return plan.model_copy(
        update={
            "model": plan.model.model_copy(update={"input_size": SIZE}),
            "sites": among,
            "schedule": plan.schedule.model_copy(update={"quorum": quorum}),
            "training": plan.training.model_copy(
                update={"patient_sampling_rate": rate, "local_steps": steps}
            ),
            "privacy": plan.privacy.model_copy(update=privacy),
            "aggregation": plan.aggregation.model_copy(update=aggregation),
        }
    )


@dataclass(frozen=True, eq=False)
class Work:
    """A site's local work. vector: what it would mask. steps: each noised sum in clip norms,
    (steps, parameters), as the site itself sees them. update: the sum of what it learned."""

    vector: Ring
    steps: Floats
    update: npt.NDArray[np.float32] | None
    clipped: int


@dataclass(frozen=True, eq=False)
class Release:
    """One round. seen: the audited site's sum in clip norms, (parameters,), as whoever knows all
    other sites reads it; None when no sum came out, for `reason`.

    masked: the audited site's words under all its masks, under those with others alone, and under
    its own alone. masks_cancel: whether the sum is exactly that of the sites' vectors.
    """

    seen: Floats | None
    reason: str
    work: Work
    masked: tuple[Ring, Ring, Ring] | None
    masks_cancel: bool


class Hospitals:
    """The sites of a rehearsal of `plan`: the first is audited, others it does not trust."""

    def __init__(self, plan: StudyPlan, canaries: Canaries, device: str = "cpu") -> None:
        self.plan, self.canaries, self._device = plan, canaries, device
        self.fixed: Contribution = contribution(plan, canaries.parameters, canaries.network)

    @cached_property
    def noise(self) -> float:
        """Deviation of what the audited site adds to a coordinate of a sum, in clip norms."""
        assert self.plan.privacy != "none"
        if is_distributed(self.plan):
            share = share_of_noise(self.plan, self.canaries.parameters)
            return float(share.variance**0.5 * share.step / self.plan.privacy.clip_norm)
        found = noise_multiplier(self.plan)
        assert found is not None
        return found

    @cached_property
    def noise_of_sum(self) -> float:
        """The same for a whole round's sum as it is read, unless updates were scaled down."""
        if is_distributed(self.plan):
            return self.noise * math.sqrt(len(self.plan.sites) - self.known)
        return self.noise * math.sqrt(float(np.square(self._weights).sum()))

    @cached_property
    def most_of_a_patient(self) -> float:
        """What one patient adds to a whole round's sum at most, in clip norms, on average."""
        return self.plan.training.patient_sampling_rate * float(self._weights.sum())

    @cached_property
    def _weights(self) -> Floats:
        """Of each step in a round's update, by momentum; the last one first."""
        training = self.plan.training
        left = training.momentum ** np.arange(1, training.local_steps + 1)
        return np.asarray((1 - left) / (1 - training.momentum), np.float64)

    @cached_property
    def room(self) -> float:
        """How many patients with one direction a site's vector holds without being clipped."""
        if not is_distributed(self.plan):
            return math.inf  # steps are watched before they are encoded
        assert self.fixed.update_norm is not None
        long = self.fixed.value_range * math.sqrt(LAYERS * WIDTH)
        return min(long, self.fixed.update_norm / math.sqrt(32)) / self._clip_norm

    def work(self, patients: Ids, start: npt.NDArray[np.float32] | None = None) -> Work:
        """A round's local work on these canaries, from weights `start`, or from none."""
        made: list[nn.Module] = []
        weights = [self.canaries.start() if start is None else start]

        def network(terms: ModelTerms) -> nn.Module:
            made.append(self.canaries.network(terms))
            return made[-1]

        def on_step(_done: int, _of: int) -> None:
            weights.append(flatten(made[-1]))

        vector, clipped = vector_of(
            self.plan,
            self.fixed,
            self.canaries.cohort(patients),
            RoundKind.RETRAIN,  # trains like any other, and evaluates nothing
            weights[0],
            devices=(self._device,),
            on_step=on_step,
            network=network,
        )
        if is_distributed(self.plan):
            alone = self.fixed.decode(vector.copy(), contributors=1)
            seen = self.read(alone, sites=1, patients=1)
            return Work(vector, seen[None], None, clipped)
        return Work(vector, self._sums(weights), weights[-1] - weights[0], clipped)

    def _sums(self, weights: list[npt.NDArray[np.float32]]) -> Floats:
        """The noised sum of each step from the weights after it."""
        training = self.plan.training
        moved = -np.diff(np.stack(weights).astype(np.float64), axis=0) / training.learning_rate
        moved[1:] -= training.momentum * moved[:-1].copy()
        return moved * training.expected_patients / self._clip_norm

    def release(self, patients: Ids, strangers: Ids) -> Release:
        """A whole round: these canaries at the audited site, `strangers` at every other honest one.

        Where each site adds its own noise, nothing else is relied on: the others' parts are known.
        With shared noise as many are known as the plan says may collude.
        """
        work = self.work(patients)
        others = len(self.plan.sites) - 1
        vectors = [work.vector, *(self.known_vector() for _ in range(self.known))]
        vectors += [self.work(strangers).vector for _ in range(others - self.known)]
        try:
            found = masked_sum(self.plan, self.fixed, vectors)
        except RoundFailed as err:
            return Release(None, str(err), work, None, masks_cancel=False)
        return Release(
            self.read(found.aggregate, sites=len(vectors), patients=patients.size),
            "",
            work,
            (found.uploads[0], found.under_pair_masks, found.under_own_mask),
            masks_cancel=same_words(self.fixed.layout, found.total, vectors),
        )

    def loss(self, work: Work, patients: int) -> float | None:
        """How far the encoded update is from what was learned, in steps of the encoding; None where
        it was shortened to the plan's norm, or noise is added after rounding."""
        if work.update is None or self.shortened(work):
            return None
        read = self.fixed.decode(work.vector.copy(), contributors=1).mean_update
        weighed = self.plan.aggregation.weighting == "patients"
        share = patients / self.fixed.max_weight if weighed else 1.0
        step = encoding_step(bits=self.fixed.bits, value_range=self.fixed.value_range)
        return float(np.abs(read - work.update).max() * share / step)

    def shortened(self, work: Work) -> bool:
        """Whether the plan's bounds on an update, or on a coordinate of it, took something away."""
        if work.clipped or work.update is None or self.fixed.update_norm is None:
            return bool(work.clipped)
        return float(np.linalg.norm(work.update)) > self.fixed.update_norm

    @property
    def known(self) -> int:
        """How many other sites are not relied on."""
        shared = is_distributed(self.plan)
        return self.plan.colluding_sites if shared else len(self.plan.sites) - 1

    def nothing(self) -> Ring:
        """The vector of an evaluation that counted nothing."""
        counts = np.zeros(self.fixed.metrics, np.int64)
        return self.fixed.encode(None, weight=1, metrics=counts)[0]

    def known_vector(self) -> Ring:
        """A site that tells all: it trained on nobody, and says what noise it added."""
        noise = (lambda _v, n: np.zeros(n, np.int64)) if is_distributed(self.plan) else None
        counts = np.zeros(self.fixed.metrics, np.int64)
        return self.fixed.encode(self.canaries.start(), weight=1, metrics=counts, noise=noise)[0]

    def read(self, found: Aggregate, *, sites: int, patients: int) -> Floats:
        """What a sum over `sites` says of the audited one, which has so many patients."""
        if self.fixed.shared is not None:
            return found.mean_update * sites / (self.fixed.shared.gain * self._clip_norm)
        weighed = self.plan.aggregation.weighting == "patients"
        sums = found.mean_update * found.weight / (patients if weighed else 1)
        training = self.plan.training
        unit = -training.learning_rate * self._clip_norm / training.expected_patients
        return sums / unit

    @property
    def _clip_norm(self) -> float:
        assert self.plan.privacy != "none"
        return self.plan.privacy.clip_norm


def same_words(layout: Layout, total: Ring, vectors: list[Ring]) -> bool:
    """Whether `total` is the sum of these, in the ring of each vector of the layout."""
    wanted = layout.split(np.sum(vectors, axis=0, dtype=np.uint32))
    found = layout.split(total)
    masks = {v.name: np.uint32(2**v.bits - 1) for v in layout.vectors}
    return all(np.array_equal(found[n] & m, wanted[n] & m) for n, m in masks.items())
