"""One site's vector for one round: what it counted, what it learned, its vote, as words of a ring.

Nothing is stored, charged or sent here; the worker does that around it, a simulation does not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from primia.config.plan import StudyPlan
from primia.errors import DataError
from primia.federation.contribution import Contribution, Entropy
from primia.imaging.dataset import Cohort
from primia.learning.evaluate import evaluate
from primia.learning.federated import clipped_sum
from primia.learning.local import train_locally
from primia.learning.metrics import Counts, Metrics
from primia.learning.models import FloatVector, Network, build_for
from primia.learning.parallel import train_on_devices
from primia.learning.step import Notice
from primia.learning.terms import LocalTerms, OnStep, is_distributed
from primia.privacy.discrete_gaussian import discrete_gaussian
from primia.protocol.messages import RoundKind
from primia.study import metric_layout
from primia.types import Ring

Accepts = Callable[[float], bool]
"""Whether the site accepts a model that has this AUC on its own validation films."""


def vector_of(
    plan: StudyPlan,
    contribution: Contribution,
    cohort: Cohort,
    kind: RoundKind,
    weights: FloatVector,
    *,
    devices: Sequence[str] = ("cpu",),
    accepts: Accepts = lambda _auc: True,
    on_step: OnStep = lambda _done, _of: None,
    entropy: Entropy = os.urandom,
    network: Network = build_for,
    notice: Notice | None = None,
) -> tuple[Ring, int]:
    """The words that this site puts under its mask, and how many coordinates were clipped.

    weights: the model that the round starts from. accepts: asked where the plan has votes.
    entropy: of sampling, noise and rounding; several devices draw their own.
    network: what is trained; an audit, which evaluates nothing, trains another than the plan's.
    notice: shown each clipped sum before it is noised, on one device; nothing of it may leave.
    Raises DataError when the films or the update cannot be used, PeerError for wrong weights.
    """
    terms, layout = LocalTerms.of(plan), metric_layout(plan)
    counts = np.zeros(layout.length, np.uint32)
    if kind is not RoundKind.RETRAIN:  # that model was counted before
        counts = evaluate(terms, weights, cohort.validation, layout, device=devices[0])
    update, noise = None, None
    if kind is not RoundKind.EVALUATE:
        if is_distributed(plan):
            # Bare until `encode` has added this site's share of noise: it is not kept.
            films, device = cohort.train, devices[0]
            update = clipped_sum(
                terms,
                weights,
                films,
                device=device,
                entropy=entropy,
                network=network,
                notice=notice,
            )
            noise = partial(discrete_gaussian, entropy=entropy)
            on_step(1, terms.local_steps)
        elif len(devices) > 1:
            update = train_on_devices(terms, weights, cohort.train, devices, on_step=on_step).delta
        else:
            update = train_locally(
                terms,
                weights,
                cohort.train,
                device=devices[0],
                on_step=on_step,
                entropy=entropy,
                network=network,
                notice=notice,
            ).delta
    weighed = plan.aggregation.weighting == "patients"
    try:
        return contribution.encode(
            update,
            weight=cohort.train.patient_count if weighed else 1,
            metrics=counts.astype(np.int64),
            vote=vote_on(plan, kind, counts, accepts),
            entropy=entropy,
            noise=noise,
        )
    except ValueError as err:
        raise DataError(f"the update cannot be encoded: {err}") from err


def vote_on(plan: StudyPlan, kind: RoundKind, counts: Counts, accepts: Accepts) -> bool:
    """Whether this site accepts the round's model, by what it counted; yes when it cannot tell."""
    if plan.evaluation.vote_tolerance is None or kind is RoundKind.RETRAIN:
        return True
    auc = Metrics.from_counts(metric_layout(plan), counts).auc
    return math.isnan(auc) or accepts(auc)  # NaN: the films are all of one class
