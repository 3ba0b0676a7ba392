"""Gradients and norms through a standardised weight.

The standardised weight of one output channel is v (v·v + eps)^(-1/2) with v = w - mean(w). A
gradient g of it becomes, for w, with r = (v·v + eps)^(-1/2):

    r (g - mean(g)) - r³ v (g·v),

a linear map that is the same for all rows. Its squared norm, with p weights a channel, is

    r² (g·g - p mean(g)²) - (2 r⁴ - r⁶ v·v) (g·v)²,

so the norm of the gradient through it needs only the sums over the positions of mean(g) and g·v
beside the Gram matrices. (v·mean(g) vanishes, since v has mean zero.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from primia.learning.engine.precision import wide
from primia.learning.engine.rows import Rows
from primia.learning.layers import standardise

if TYPE_CHECKING:
    from primia.learning.engine.convolution import Geometry


def is_standardised(module: nn.Module) -> bool:
    """Whether the module convolves with its standardised weight."""
    return hasattr(module, "standardised_weight")


def effective_weight(module: Any, weight: torch.Tensor) -> torch.Tensor:
    """What the module convolves with."""
    return standardise(weight, module.eps) if is_standardised(module) else weight


def through_standardisation(
    module: Any, weight: torch.Tensor, gradients: torch.Tensor
) -> torch.Tensor:
    """Gradients of the effective weight, (n, *weight.shape), as gradients of the weight."""
    if not is_standardised(module):
        return gradients
    v, r = _centred(weight.to(gradients.dtype), module.eps)
    flat = gradients.flatten(2)  # (n, out, p)
    projection = torch.einsum("nop,op->no", flat, v)[..., None]
    through = r * (flat - flat.mean(2, keepdim=True)) - r**3 * v * projection
    return through.view_as(gradients)


def _centred(weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """v (out, p) and r (out, 1)."""
    flat = weight.flatten(1)
    v = flat - flat.mean(1, keepdim=True)
    return v, (v.square().sum(1, keepdim=True) + eps).rsqrt()


def channel_scale(module: Any, weight: torch.Tensor) -> torch.Tensor:
    """r of each output channel, (out,): norms are taken of output gradients times it."""
    return _centred(weight, module.eps)[1].flatten()


_CANCELS_BELOW = 0.1
"""Below this share of the uncorrected squared norm, the corrected one is doubted."""
TOLERATED = 1e-4
"""Relative error of the uncorrected squared norm; a tenth of what others may have, as a tenth of
it may be left."""


def corrected_norms(
    module: Any,
    geometry: Geometry,
    rows: Rows,
    x: torch.Tensor,
    grad: torch.Tensor,
    weight: torch.Tensor,
    norms: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared norms of the weight's gradients, and whether to doubt them; (units,).

    norms: the same of r times the effective weight's gradients.
    """
    uncorrected, doubtful = norms
    x, grad = wide(x), wide(grad)
    v, r = (part.to(x.dtype) for part in _centred(weight, module.eps))
    r = r.flatten()
    flat = grad.flatten(2)
    channels = weight.shape[0] // geometry.groups
    ones = weight.new_ones((geometry.groups, *weight.shape[1:]), dtype=x.dtype)
    patch_sums = geometry.forward(x, ones, None).flatten(2).repeat_interleave(channels, 1)
    mean = rows.fold(torch.linalg.vecdot(flat, patch_sums)) / v.shape[1]  # (units, out)
    seen = geometry.forward(x, v.view_as(weight), None).flatten(2)
    projection = rows.fold(torch.linalg.vecdot(flat, seen))
    lost = r**2 * v.shape[1] * mean.square()
    lost = lost + (2 * r**4 - r**6 * v.square().sum(1)) * projection.square()
    squared = uncorrected - lost.sum(1)
    return squared.clamp_min(0.0), doubtful | (squared < _CANCELS_BELOW * uncorrected)
