"""Count how a model does on a site's validation films; only the counts leave, masked."""

from __future__ import annotations

import numpy as np
import torch

from primia.imaging.dataset import Films
from primia.learning.local import to_input
from primia.learning.metrics import Counts, Floats, MetricLayout
from primia.learning.models import FloatVector, build_for, load_flat
from primia.learning.terms import LocalTerms

_BATCH = 128


def evaluate(
    terms: LocalTerms,
    weights: FloatVector,
    films: Films,
    layout: MetricLayout,
    *,
    device: str = "cpu",
) -> Counts:
    """The counts of `layout` over `films`, uint32 (layout.length,); zeros for no films.

    Raises PeerError when `weights` do not fit the plan's model.
    """
    return layout.count(predict(terms, weights, films, device=device), films.labels)


def predict(
    terms: LocalTerms, weights: FloatVector, films: Films, *, device: str = "cpu"
) -> Floats:
    """Logits of each film, float64 (n, classes)."""
    model = build_for(terms.model)
    load_flat(model, weights)
    model.to(device).eval()
    logits = [np.empty((0, len(terms.model.classes)))]
    with torch.inference_mode():
        for start in range(0, len(films), _BATCH):
            part = torch.from_numpy(films.pixels[start : start + _BATCH])
            output = model(to_input(part, terms.model.channels, device))
            logits.append(output.cpu().numpy().astype(np.float64))
    return np.concatenate(logits)
