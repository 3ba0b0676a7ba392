"""A model trained at one site alone by the study's plan: what its hospital would have by itself.

It goes nowhere: nothing is charged, for nothing is released, and whoever calls this lets it go
after judging it. Figures about it are figures about the films (docs/adr/0017).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from primia.config.plan import StudyPlan
from primia.federation.contribution import Entropy
from primia.federation.optimiser import FedAdam, FedAvg, ServerState, step
from primia.imaging.dataset import Cohort, Films
from primia.learning.evaluate import evaluate
from primia.learning.local import train_locally
from primia.learning.metrics import Metrics
from primia.learning.models import FloatVector
from primia.learning.terms import LocalTerms
from primia.study import first_weights, metric_layout, optimiser

_LOOKS = 20  # at the validation films, at most
_NO_NOISE = 1e-9  # in clip norms: far below what a float32 weight can hold

OnRound = Callable[[int, int], None]
"""Called after each round with (rounds done, rounds of the plan)."""


def rounds_alone(
    terms: LocalTerms,
    server: FedAvg | FedAdam,
    start: FloatVector,
    films: Films,
    rounds: int,
    *,
    device: str = "cpu",
    entropy: Entropy = os.urandom,
) -> Iterator[FloatVector]:
    """The weights after each round in which this site's update is the whole sum.

    Raises as `train_locally` does.
    """
    state = ServerState.start(start, server)
    for _ in range(rounds):
        update = train_locally(terms, state.weights, films, device=device, entropy=entropy)
        state = step(state, update.delta.astype(np.float64), server)
        yield state.weights


def train_alone(
    plan: StudyPlan,
    cohort: Cohort,
    *,
    private: bool,
    device: str = "cpu",
    on_round: OnRound = lambda _done, _of: None,
    entropy: Entropy = os.urandom,
) -> FloatVector:
    """Weights after the plan's rounds with this site as the only one, the best of them here.

    First weights, steps, rates and the server's step are the plan's. private: with its noise, all
    of which this site then adds; else with none to speak of. Patients are clipped either way, as
    the plan says: its rates suit clipped gradients, and without clipping the same rates may train
    badly. The best is by the AUC on the validation films, as a study's best model is: if that
    flatters, then this one.

    Raises DataError, ConfigError as `train_locally` does.
    """
    terms = LocalTerms.of(plan)
    if not private and terms.privacy is not None:
        terms = replace(terms, privacy=replace(terms.privacy, noise_multiplier=_NO_NOISE))
    layout, server = metric_layout(plan), optimiser(plan)
    best = first_weights(plan)
    highest, every = -math.inf, math.ceil(plan.rounds / _LOOKS)
    trained = rounds_alone(
        terms, server, best, cohort.train, plan.rounds, device=device, entropy=entropy
    )
    for number, weights in enumerate(trained, start=1):
        if number % every == 0 or number == plan.rounds:
            counts = evaluate(terms, weights, cohort.validation, layout, device=device)
            auc = Metrics.from_counts(layout, counts).auc
            if auc >= highest or math.isinf(highest):
                best, highest = weights, auc
        on_round(number, plan.rounds)
    return best
