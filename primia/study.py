"""What both sides derive from a settled plan: the layout of a contribution, and the optimiser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from primia.config.plan import StudyPlan
from primia.errors import ConfigError
from primia.federation.contribution import Contribution, SharedNoise
from primia.federation.optimiser import FedAdam, FedAvg
from primia.learning.metrics import MetricLayout
from primia.learning.terms import is_distributed, share_of_noise

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
        update_norm=terms.update_norm,
    )


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
