"""Normalisations: the per-sample gradients of their weights come at the price of the batch's."""

from __future__ import annotations

from typing import Any

import torch

from primia.learning.engine.layer import Layer
from primia.learning.engine.precision import autocast_dtype

aten = torch.ops.aten


def group_norm(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """Rule for GroupNorm, and for InstanceNorm as the case of one channel a group."""
    module: Any = layer.module
    groups = getattr(module, "num_groups", x.shape[1])
    unbatched = getattr(module, "_get_no_batch_dim", None)  # of an InstanceNorm
    layer.called(x, dims=unbatched() + 1 if unbatched else 0)
    layer.decide((), False, "few weights", positions=x.shape[2:].numel())
    x = x.float() if autocast_dtype(x) is not None else x
    return _GroupNorm.apply(x, module.weight, module.bias, layer, groups, module.eps)  # type: ignore


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        layer: Layer,
        groups: int,
        eps: float,
    ) -> torch.Tensor:
        n, channels = x.shape[:2]
        x = x.contiguous(memory_format=_format(x))
        with torch.autocast(x.device.type, enabled=False):
            y, mean, rstd = torch.native_group_norm(
                x, weight.to(x.dtype), bias.to(x.dtype), n, channels,
                x.shape[2:].numel(), groups, eps,
            )  # fmt: skip
        ctx.layer, ctx.groups = layer, groups
        ctx.save_for_backward(x, mean, rstd, weight)
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, mean, rstd, weight = ctx.saved_tensors
        # In two formats at once the native call gives wrong numbers without a word.
        grad = grad.contiguous(memory_format=_format(x))
        together = x.is_contiguous()
        gx, weights, biases = (_as_one_row if together else _row_by_row)(
            grad, x, mean, rstd, weight.to(x.dtype), ctx.groups, ctx.needs_input_grad[0]
        )
        if ctx.needs_input_grad[1]:
            ctx.layer.enter_gradients("weight", weights)
        if ctx.needs_input_grad[2]:
            ctx.layer.enter_gradients("bias", biases)
        return gx, None, None, None, None, None


def _as_one_row(
    grad: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor,
    groups: int,
    needs_input: bool,
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """The batch as *one* row of n·channels channels and n·groups groups: the gradients that the
    native backward then sums over its rows are each row's own."""
    n, channels = x.shape[:2]
    gx, weights, biases = aten.native_group_norm_backward(
        grad.view(1, n * channels, -1), x.view(1, n * channels, -1),
        mean.view(1, -1), rstd.view(1, -1), weight.repeat(n),
        1, n * channels, x.shape[2:].numel(), n * groups, [needs_input, True, True],
    )  # fmt: skip
    gx = gx.view_as(x) if needs_input else None
    return gx, weights.view(n, channels), biases.view(n, channels)


def _row_by_row(
    grad: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor,
    groups: int,
    needs_input: bool,
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """In channels-last that view does not exist: sums over the positions give the same."""
    n, channels = x.shape[:2]
    gx = None
    if needs_input:
        gx = aten.native_group_norm_backward(
            grad, x, mean, rstd, weight, n, channels, x.shape[2:].numel(), groups,
            [True, False, False],
        )[0]  # fmt: skip
    spatial = tuple(range(2, x.dim()))
    biases = grad.sum(spatial)
    products = (grad * x).sum(spatial)
    each = channels // groups
    mean, rstd = (s.view(n, groups).repeat_interleave(each, 1) for s in (mean, rstd))
    return gx, (products - mean * biases) * rstd, biases


def _format(x: torch.Tensor) -> torch.memory_format:
    last = torch.channels_last
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=last):
        return last
    return torch.contiguous_format


def layer_norm(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """Rule for LayerNorm, inputs (rows, ..., *normalized_shape)."""
    module: Any = layer.module
    shape = tuple(module.normalized_shape)
    _begin(layer, x, len(shape))
    x = x.float() if autocast_dtype(x) is not None else x
    return _LayerNorm.apply(x, module.weight, module.bias, layer, shape, module.eps)  # type: ignore


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        layer: Layer,
        shape: tuple[int, ...],
        eps: float,
    ) -> torch.Tensor:
        x = x.contiguous()
        with torch.autocast(x.device.type, enabled=False):
            b = None if bias is None else bias.to(x.dtype)
            y, mean, rstd = torch.native_layer_norm(x, shape, weight.to(x.dtype), b, eps)
        ctx.layer, ctx.shape = layer, shape
        ctx.save_for_backward(x, mean, rstd, weight)
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, mean, rstd, weight = ctx.saved_tensors
        grad = grad.contiguous()
        gx = None
        if ctx.needs_input_grad[0]:
            gx = aten.native_layer_norm_backward(
                grad, x, ctx.shape, mean, rstd, weight.to(x.dtype), None, [True, False, False]
            )[0]
        if ctx.needs_input_grad[1]:
            _enter(ctx.layer, "weight", grad * ((x - mean) * rstd), len(ctx.shape))
        if ctx.needs_input_grad[2]:
            _enter(ctx.layer, "bias", grad, len(ctx.shape))
        return gx, None, None, None, None, None


def rms_norm(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """Rule for RMSNorm (Zhang & Sennrich, arXiv 1910.07467), inputs as of LayerNorm."""
    module: Any = layer.module
    dims = len(module.normalized_shape)
    _begin(layer, x, dims)
    x = x.float() if autocast_dtype(x) is not None else x
    eps = torch.finfo(x.dtype).eps if module.eps is None else module.eps
    over = tuple(range(-dims, 0))
    # The division is left to autograd; only the scale by the weight is ours.
    normed = x * (x.square().mean(over, keepdim=True) + eps).rsqrt()
    return _Scale.apply(normed, module.weight, layer, dims)  # type: ignore


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, normed: torch.Tensor, weight: torch.Tensor, layer: Layer, dims: int
    ) -> torch.Tensor:
        ctx.layer, ctx.dims = layer, dims
        ctx.save_for_backward(normed, weight)
        return normed * weight.to(normed.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normed, weight = ctx.saved_tensors
        _enter(ctx.layer, "weight", grad * normed, ctx.dims)
        gx = grad * weight.to(grad.dtype) if ctx.needs_input_grad[0] else None
        return gx, None, None, None


def _enter(layer: Layer, name: str, products: torch.Tensor, dims: int) -> None:
    """Sum over a row's positions: all but the first and the last `dims` dimensions."""
    over = tuple(range(1, products.dim() - dims))
    layer.enter_gradients(name, products.sum(over) if over else products)


def _begin(layer: Layer, x: torch.Tensor, dims: int) -> None:
    """Of a norm over the last `dims` dimensions, before which the rows come."""
    layer.called(x, dims=max(x.dim(), dims + 1))
    positions = x.shape[1 : x.dim() - dims].numel()
    layer.decide((), False, "few weights", positions=positions)
