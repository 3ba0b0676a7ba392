"""Networks to attack: the study's own, and ones on which an attack is known to work."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from primia.config.plan import StudyPlan, plan_digest
from primia.errors import ConfigError
from primia.inference.trained import read_export
from primia.learning.models import build_for


def first_network(plan: StudyPlan) -> nn.Module:
    """The network that a study of this plan begins with, weight for weight."""
    return build_for(plan.model, seed=int(plan_digest(plan)[:8], 16))


def network_of(plan: StudyPlan, weights: Path | None) -> nn.Module:
    """The plan's network with the weights of an export. Raises ConfigError for another network."""
    if weights is None:
        return first_network(plan)
    model, terms = read_export(weights)
    if terms != plan.model:
        raise ConfigError(
            f"{weights}: was trained as {terms.name} for {terms.input_size} px and classes "
            f"{', '.join(terms.classes)}, the plan says otherwise; give the plan it was trained "
            "under with --plan"
        )
    return model
