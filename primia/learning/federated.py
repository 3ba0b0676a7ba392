"""One step of DP-SGD on the union of all sites: what one site gives to the sum, before any noise.

With `noise: distributed` a round is a single step. Every site draws its patients by Poisson
sampling at the plan's rate, as if the union were sampled, and sums their clipped gradients. The
noise comes after encoding, as integers (`primia.privacy.discrete_gaussian`): until then this sum
is as secret as the films.
"""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from primia.config.plan import ModelTerms
from primia.imaging.dataset import Films
from primia.learning.clipped import PerUnitClipping
from primia.learning.local import loss_of_each, private_step, starting_model, to_input, views
from primia.learning.models import FloatVector, Network, build_for
from primia.learning.noise import Entropy
from primia.learning.step import Notice
from primia.learning.terms import LocalTerms


def clipped_sum(
    terms: LocalTerms,
    weights: FloatVector,
    films: Films,
    *,
    device: str = "cpu",
    entropy: Entropy = os.urandom,
    network: Network = build_for,
    notice: Notice | None = None,
) -> FloatVector:
    """The clipped gradients of one step's patients, summed: float32 (parameters,), no noise.

    Adding or removing one patient changes it by `clip_norm` at most in L2 norm. Zero where the
    plan's model does not learn, and everywhere when nobody was drawn.

    notice: shown the clipped sum, as `PrivateStep` does.
    Raises as `train_locally`; ConfigError for a model that cannot be trained privately.
    """
    model = starting_model(terms, weights, films, network).to(device)
    step = private_step(terms, entropy)
    prepare = partial(to_input, channels=terms.model.channels, device=device)
    clipped = PerUnitClipping(model, prepare=prepare)
    rows = views(step.draw(films.patient_count), terms, films, entropy)
    found = clipped.sum(step.clipping, loss_of_each, *rows)
    gradients = dict(zip(clipped.parameters, found.gradients, strict=True))
    if notice is not None:
        notice(found)
    parts = [gradients.get(p, torch.zeros_like(p)).flatten() for p in model.parameters()]
    return torch.cat(parts).detach().float().cpu().numpy()


def learning_coordinates(model: ModelTerms, network: Network = build_for) -> npt.NDArray[np.bool_]:
    """Which weights of the plan's model learn, bool (parameters,)."""
    parts = [np.full(p.numel(), p.requires_grad) for p in network(model).parameters()]
    return np.concatenate(parts)
