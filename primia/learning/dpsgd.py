"""One patient's gradient, bounded: the only place where private training touches films.

The unit is the patient. The gradients of a patient's films are averaged first and clipped
afterwards, so one patient moves the sum by at most `clip_norm`, however many films there are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

CLIP_MARGIN = 1e-3
"""Clip a little below the bound: float32 norms are rounded, the sensitivity must not be."""

_GRADIENT_BYTES = 64 << 20
"""Memory for one physical batch of per-film gradients."""
_LARGEST_BATCH = 64


def clipped_sum(
    model: nn.Module,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    patient_index: torch.Tensor,
    clip_norm: float,
) -> torch.Tensor:
    """Sum over patients of their clipped mean gradient of the cross-entropy.

    pixels: float32 (n, channels, size, size); labels: int64 (n,).
    patient_index: int64 (n,), who each film is of; films of one patient lie side by side.
    clip_norm: bound C on one patient's L2 norm over all parameters together.

    Returns float32 (parameters,), in the order of `model.parameters()`. Adding or removing one
    patient changes it by at most C. A patient whose gradient is not finite counts as zero, which
    keeps that bound. Films go through the model in physical batches of one size, the last padded
    with films of weight 0; a patient may span several.
    """
    n = labels.numel()
    total = next(model.parameters()).new_zeros(sum(p.numel() for p in model.parameters()))
    if n == 0:
        return total
    _, position, films = torch.unique_consecutive(
        patient_index, return_inverse=True, return_counts=True
    )
    weight = 1.0 / films[position]
    per_film = per_film_gradients(model)
    size = _physical_batch(total.numel())
    unfinished = torch.zeros_like(total)  # gradient of the patient that the last batch cut in two
    for start in range(0, n, size):
        stop = min(start + size, n)
        # Never fewer films than `size`: a repeated film pads, and its weight of 0 is left out.
        rows = torch.arange(start, start + size, device=labels.device).clamp_max(n - 1)
        gradients = per_film(pixels[rows], labels[rows])[: stop - start]
        gradients *= weight[start:stop, None]
        local = position[start:stop] - position[start]
        patients = total.new_zeros((int(local[-1]) + 1, total.numel()))
        patients.index_add_(0, local, gradients)
        patients[0] += unfinished
        if stop < n and position[stop] == position[stop - 1]:
            unfinished = patients[-1].clone()
            patients = patients[:-1]
        else:
            unfinished.zero_()
        total += clip_and_sum(patients, clip_norm)
    return total


def clip_and_sum(gradients: torch.Tensor, clip_norm: float) -> torch.Tensor:
    """Scale each row to L2 norm at most `clip_norm` (less a margin), then add the rows.

    gradients: one row for each patient, (n, parameters). A row that is not finite counts as zero.
    """
    norms = torch.linalg.vector_norm(gradients, dim=1)
    scale = (clip_norm * (1 - CLIP_MARGIN) / norms.clamp_min(1e-12)).clamp_max(1.0)
    finite = torch.isfinite(norms)
    if not finite.all():  # 0 * NaN is NaN: the row itself has to go
        gradients = torch.where(finite[:, None], gradients, 0.0)
        scale = torch.where(finite, scale, 0.0)
    total: torch.Tensor = scale @ gradients
    return total


PerFilm = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def per_film_gradients(model: nn.Module) -> PerFilm:
    """A function (pixels, labels) -> gradients (n, parameters), one row for each film."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(
        weights: dict[str, torch.Tensor], film: torch.Tensor, label: torch.Tensor
    ) -> torch.Tensor:
        logits = functional_call(model, weights, (film[None],))
        return nn.functional.cross_entropy(logits, label[None])

    batched = vmap(grad(loss), in_dims=(None, 0, 0))

    def flat(pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        parts = batched(parameters, pixels, labels)
        return torch.cat([parts[name].flatten(1) for name in parameters], dim=1)

    return flat


def _physical_batch(parameters: int) -> int:
    return max(1, min(_LARGEST_BATCH, _GRADIENT_BYTES // (4 * parameters)))
