"""What both sides derive from a settled plan: the layout of a contribution, and the optimiser."""

from __future__ import annotations

from primia.config.plan import StudyPlan
from primia.federation.contribution import Contribution
from primia.federation.optimiser import FedAdam, FedAvg
from primia.learning.metrics import MetricLayout


def metric_layout(plan: StudyPlan) -> MetricLayout:
    """How evaluation counts lie in the vector."""
    return MetricLayout(len(plan.model.classes), plan.evaluation.histogram_bins)


def contribution(plan: StudyPlan, parameters: int) -> Contribution:
    """How one site's vector is laid out and encoded; `parameters` is the model's size."""
    return Contribution(
        parameters=parameters,
        metrics=metric_layout(plan).length,
        bits=plan.aggregation.encoding_bits,
        value_range=plan.aggregation.encoding_range,
        max_weight=plan.aggregation.max_patients or 1,
    )


def optimiser(plan: StudyPlan) -> FedAvg | FedAdam:
    """The server's step."""
    terms = plan.server
    if terms.name == "fedavg":
        return FedAvg(terms.learning_rate)
    return FedAdam(terms.learning_rate, terms.beta1, terms.beta2, terms.tau)
