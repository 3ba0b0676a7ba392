"""What both sides derive from a settled plan: model 0, the layout of a contribution, the server's
step, and how far that may move the model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from primia.config.plan import StudyPlan, plan_digest
from primia.errors import ConfigError
from primia.federation.bounded import Reach, reach_of_step
from primia.federation.contribution import DEVIATIONS, Contribution, SharedNoise
from primia.federation.optimiser import FedAdam, FedAvg, Vector
from primia.federation.robust import trimmed_groups
from primia.learning.metrics import MetricLayout
from primia.learning.terms import is_distributed, noise_multiplier, share_of_noise

if TYPE_CHECKING:
    from primia.learning.models import Network

UPDATE_NORM = 2.0
"""With shared noise: the norm that a site's sum is scaled down to, in clip norms of the patients
that the plan expects. Honest sums are shorter unless a site has far more patients."""

SMALLEST_ROOM = 0.1
"""With shared noise: how much of that many clip norms one coordinate must have room for."""


def metric_layout(plan: StudyPlan) -> MetricLayout:
    """How evaluation counts lie in the vector."""
    return MetricLayout(len(plan.model.classes), plan.evaluation.histogram_bins)


def contribution(plan: StudyPlan, parameters: int, network: Network | None = None) -> Contribution:
    """How one site's vector is laid out and encoded; `parameters` is the model's size.

    network: what is trained, where that is not the plan's own.

    Raises ConfigError when the sum and the noise that the sites share do not fit the ring.
    """
    terms = plan.aggregation
    if is_distributed(plan):
        return _with_shared_noise(plan, parameters, network)
    return Contribution(
        parameters=parameters,
        metrics=metric_layout(plan).length,
        bits=plan.update_bits,
        value_range=terms.encoding_range,
        wire_bits=terms.wire_bits,
        max_weight=terms.max_patients or 1,
        stochastic=terms.rounding == "stochastic",
        update_norm=terms.update_norm or _longest_update(plan, parameters, network),
    )


def _longest_update(plan: StudyPlan, parameters: int, network: Network | None) -> float | None:
    """Where a plan with noise at each site names no `update_norm`: a norm that honest updates are
    scaled down to only where a site draws far more patients than the plan expects.

    Room for the gradients of every expected patient, all of norm `clip_norm` and pointing one way
    in every step, and for the noise beside them. Noise of d coordinates is √d deviations long and
    lies across any one direction but for a single one; it is `DEVIATIONS` more, along or beside,
    with a chance of exp(-72). None for `privacy: none`.
    """
    noise = noise_multiplier(plan)
    if plan.privacy == "none" or noise is None:
        return None
    terms, momentum = plan.training, plan.training.momentum
    # By how many gradients the gradient of one step has moved the weights at the round's end.
    moved = [(1 - momentum**left) / (1 - momentum) for left in range(1, terms.local_steps + 1)]
    signal = sum(moved)
    deviation = noise / terms.expected_patients * math.sqrt(sum(m * m for m in moved))
    band = deviation * (math.sqrt(_learning(plan, parameters, network)) + DEVIATIONS)
    longest = math.sqrt(signal**2 + 2 * DEVIATIONS * deviation * signal + band**2)
    return terms.learning_rate * plan.privacy.clip_norm * longest


def _learning(plan: StudyPlan, parameters: int, network: Network | None) -> int:
    """How many weights learn."""
    if plan.model.trainable == "all":
        return parameters
    from primia.learning.federated import learning_coordinates  # late: it loads torch
    from primia.learning.models import build_for

    return int(learning_coordinates(plan.model, network or build_for).sum())


def _with_shared_noise(plan: StudyPlan, parameters: int, network: Network | None) -> Contribution:
    """A site's sum in steps that follow from clip norm and weights, within what noise leaves of
    the ring. (`encoding_range` and `encoding_bits` have no part in it.)"""
    from primia.learning.federated import learning_coordinates  # late: it loads torch
    from primia.learning.models import build_for

    assert plan.privacy != "none"
    learns = learning_coordinates(plan.model, network or build_for)
    share = share_of_noise(plan, int(learns.sum()))
    shared = SharedNoise(
        share.variance, -plan.training.learning_rate / plan.training.expected_patients, learns
    )
    ring = plan.aggregation.wire_bits
    bits, most = shared.room(sites=len(plan.sites), wire_bits=ring)
    expected = plan.training.expected_patients * plan.privacy.clip_norm
    if most * share.step < SMALLEST_ROOM * expected:
        remedy = "wire_bits: 32" if ring < 32 else "fewer sites, weights or expected patients"
        raise ConfigError(
            f"privacy.noise: distributed: beside the noise, {ring} bits leave a coordinate of each "
            f"of {len(plan.sites)} sites {most * share.step / plan.privacy.clip_norm:.2g} clip "
            f"norms, too little for {plan.training.expected_patients:g} expected patients; use "
            f"{remedy}"
        )
    return Contribution(
        parameters=parameters,
        metrics=metric_layout(plan).length,
        bits=bits,
        value_range=most * share.step,
        wire_bits=ring,
        stochastic=plan.aggregation.rounding == "stochastic",
        update_norm=UPDATE_NORM * expected,
        shared=shared,
    )


def optimiser(plan: StudyPlan) -> FedAvg | FedAdam:
    """The server's step."""
    terms = plan.server
    if terms.name == "fedavg":
        return FedAvg(terms.learning_rate, terms.momentum)
    return FedAdam(terms.learning_rate, terms.beta1, terms.beta2, terms.tau)


def step_bound(plan: StudyPlan, fixed: Contribution) -> Reach:
    """How far one committed round of the plan moves the global model at most.

    fixed: the plan's contribution. A trimmed mean of group means, each within some norm, is within
    √(groups / kept) of it.
    """
    mean, groups = fixed.longest_mean(plan.schedule.quorum), plan.aggregation.groups
    if groups > 1:
        kept = groups - 2 * trimmed_groups(groups)
        mean = Reach(mean.norm * math.sqrt(groups / kept), mean.coordinate)
    return reach_of_step(optimiser(plan), mean, parameters=fixed.parameters, rounds=plan.rounds)


def first_weights(plan: StudyPlan) -> Vector:
    """Model 0 of a settled plan, which anybody with the plan can make: its seed is no secret.

    The same on every machine but for the last bits. It loads torch.
    """
    from primia.learning.models import build_for, flatten

    return flatten(build_for(plan.model, seed=int(plan_digest(plan)[:8], 16)))
