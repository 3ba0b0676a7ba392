"""The plain way to clip: one unit after the other, by ordinary autograd."""

from __future__ import annotations

import torch

from primia.learning.clipping import CLIP_MARGIN


def unit_gradients(model, loss, inputs, targets, unit):
    """Each unit's mean gradient over its rows: {unit: [tensor, ...]}, in the model's precision."""
    found = {}
    parameters = [p for p in model.parameters() if p.requires_grad]
    for u in unit.unique().tolist():
        total = [torch.zeros_like(p) for p in parameters]
        mine = (unit == u).nonzero().flatten()
        for row in mine:
            value = loss(model(inputs[row : row + 1]), targets[row : row + 1]).sum() / len(mine)
            for t, g in zip(total, torch.autograd.grad(value, parameters), strict=True):
                t += g
        found[u] = total
    return found


def loop_sum(model, loss, inputs, targets, unit, clip_norm):
    """The flat-clipped sum over units, float64; a unit that is not finite counts as zero."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    sums = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    for gradients in unit_gradients(model, loss, inputs, targets, unit).values():
        norm = torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt()
        if not torch.isfinite(norm):
            continue
        factor = min(1.0, clip_norm * (1 - CLIP_MARGIN) / float(norm))
        for s, g in zip(sums, gradients, strict=True):
            s += factor * g.double()
    return sums


def relative_error(found, expected):
    """Largest relative L2 error over all parameters together."""
    difference = sum(
        float((f.double() - e).square().sum()) for f, e in zip(found, expected, strict=True)
    )
    size = sum(float(e.square().sum()) for e in expected)
    return (difference / size) ** 0.5 if size else difference**0.5
