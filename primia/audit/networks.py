"""Networks to attack: the study's own, and ones on which an attack is known to work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from primia.config.plan import StudyPlan
from primia.errors import ConfigError
from primia.imaging.dataset import Films
from primia.inference.trained import read_export
from primia.learning.local import train_locally
from primia.learning.models import build_for, flatten, load_flat
from primia.learning.terms import LocalTerms
from primia.study import first_weights

WARM_STEPS = 20  # plain ones, where the study's own network is not given


def first_network(plan: StudyPlan) -> nn.Module:
    """The network that a study of this plan begins with, weight for weight."""
    model = build_for(plan.model)
    load_flat(model, first_weights(plan))
    return model


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


def warmed_network(plan: StudyPlan, films: Films) -> nn.Module:
    """The plan's network after some plain steps on films that are not attacked.

    At its very first weights the last layer is zero, and no gradient passes it: nothing below
    could be attacked.
    """
    model = first_network(plan)
    terms = replace(
        LocalTerms.of(plan), privacy=None, local_steps=WARM_STEPS, learning_rate=0.05,
        expected_patients=64.0, momentum=0.9,
    )  # fmt: skip
    start = flatten(model)
    load_flat(model, start + train_locally(terms, start, films).delta)
    return model


def easy_network(size: int, channels: int, classes: int, *, seed: int = 0) -> nn.Sequential:
    """Three convolutions, group norms and a flattened head; 66 thousand weights at 28 px.

    Known to give its films away: every pixel reaches the head by ways of its own, and nothing is
    pooled. An attack that fails here was not carried out well enough.
    """
    widths = (32, 64, 64)
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        before, edge = channels, size
        for width, kernel, stride in zip(widths, (5, 3, 3), (1, 2, 2), strict=True):
            layers += [nn.Conv2d(before, width, kernel, stride, kernel // 2)]
            layers += [nn.GroupNorm(8, width), nn.SiLU()]
            before, edge = width, (edge - 1) // stride + 1
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * edge * edge, classes))


def sigmoid_network(size: int, channels: int, classes: int, *, seed: int = 0) -> nn.Sequential:
    """The small smooth network of Deep Leakage from Gradients (Zhu et al. 2019): three
    convolutions of 12 channels, sigmoids, and weights spread widely enough to be told apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        edge = -(-size // 4)
        model = nn.Sequential(
            nn.Conv2d(channels, 12, 5, 2, 2), nn.Sigmoid(),
            nn.Conv2d(12, 12, 5, 2, 2), nn.Sigmoid(),
            nn.Conv2d(12, 12, 5, 1, 2), nn.Sigmoid(),
            nn.Flatten(), nn.Linear(12 * edge * edge, classes),
        )  # fmt: skip
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)
        return model
