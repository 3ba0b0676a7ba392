"""Linear layers and embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from primia.errors import ConfigError
from primia.learning.engine.choice import Method, gram_is_cheaper
from primia.learning.engine.gram import features_gram, squared_norms
from primia.learning.engine.layer import Layer
from primia.learning.engine.precision import autocast_dtype, scaled, taken, wide
from primia.learning.engine.rows import Rows


def linear(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """Rule for Linear, inputs (rows, ..., in)."""
    module: Any = layer.module
    layer.called(x)
    low = autocast_dtype(x)
    x = x if low is None else x.to(low)
    out: torch.Tensor = _Linear.apply(x, module.weight, module.bias, layer)  # type: ignore[no-untyped-call]
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layer: Layer
    ) -> torch.Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        if ctx.needs_input_grad[1]:
            width = weight.shape[0] + weight.shape[1]
            ctx.method = _choose(
                layer, x.shape[1:-1].numel(), weight.numel(), width, not ctx.needs_input_grad[0]
            )
        with torch.autocast(x.device.type, enabled=False):
            bias = None if bias is None else bias.to(x.dtype)
            return nn.functional.linear(x, weight.to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        layer = ctx.layer
        gx = grad @ weight.to(grad.dtype) if ctx.needs_input_grad[0] else None
        positions = grad.reshape(len(grad), -1, grad.shape[-1])  # (rows, T, out)
        if ctx.needs_input_grad[1]:
            seen = x.reshape(len(x), -1, x.shape[-1])
            if layer.adds_up or ctx.method is Method.PER_SAMPLE:
                per_row = torch.bmm(wide(positions).transpose(1, 2), wide(seen))
                layer.enter_gradients("weight", per_row)
            else:
                _book_norms(layer, seen, positions)
        if ctx.needs_input_grad[2]:
            layer.enter_gradients("bias", wide(positions).sum(1))
        return gx, None, None, None


def _book_norms(layer: Layer, seen: torch.Tensor, grad: torch.Tensor) -> None:
    norms = squared_norms(seen, grad, layer.book.rows, features_gram, features_gram, seen.shape[1])

    def weighted_sum(factors: torch.Tensor, chosen: torch.Tensor | None) -> torch.Tensor:
        left = scaled(taken(chosen, grad), factors).flatten(0, 1)
        return left.T @ wide(taken(chosen, seen)).flatten(0, 1)

    layer.enter_norms("weight", norms, weighted_sum, used=(seen, grad))


def embedding(layer: Layer, indices: torch.Tensor) -> torch.Tensor:
    """Rule for Embedding, indices int64 (rows, ...)."""
    module: Any = layer.module
    if module.max_norm is not None or module.scale_grad_by_freq:
        raise ConfigError(
            f"module {layer.name}: max_norm and scale_grad_by_freq let one row's gradient "
            "depend on the others; leave them out"
        )
    layer.called(indices)
    return _Embedding.apply(module.weight, indices, layer, module.padding_idx)  # type: ignore


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: torch.Tensor, indices: torch.Tensor, layer: Layer, padding: int | None
    ) -> torch.Tensor:
        ctx.layer, ctx.padding = layer, padding
        ctx.save_for_backward(indices)
        width = weight.shape[1] + 1
        ctx.method = _choose(layer, indices.shape[1:].numel(), weight.numel(), width, False)
        return nn.functional.embedding(indices, weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        layer: Layer = ctx.layer
        indices = ctx.saved_tensors[0].reshape(len(grad), -1)  # (rows, T)
        positions = wide(grad).reshape(*indices.shape, grad.shape[-1])
        if ctx.padding is not None:
            positions = positions.masked_fill((indices == ctx.padding)[..., None], 0.0)
        weight = layer.parameters["weight"]
        if layer.adds_up or ctx.method is Method.PER_SAMPLE:
            per_row = positions.new_zeros((len(grad), *weight.shape))
            row = torch.arange(len(grad), device=grad.device)[:, None].expand_as(indices)
            per_row.index_put_((row, indices), positions, accumulate=True)
            layer.enter_gradients("weight", per_row)
            return None, None, None, None

        def weighted_sum(factors: torch.Tensor, chosen: torch.Tensor | None) -> torch.Tensor:
            parts = scaled(taken(chosen, positions), factors).flatten(0, 1)
            entries = taken(chosen, indices).flatten()
            return parts.new_zeros(weight.shape).index_add_(0, entries, parts)

        norms = _embedding_norms(indices, positions, layer.book.rows)
        layer.enter_norms("weight", norms, weighted_sum, used=(indices, positions))
        return None, None, None, None


def _embedding_norms(
    indices: torch.Tensor, grad: torch.Tensor, rows: Rows
) -> tuple[torch.Tensor, torch.Tensor]:
    """The Gram matrix of one-hot inputs says which positions read the same entry."""

    def same(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (one.unsqueeze(2) == other.unsqueeze(1)).to(grad.dtype).unsqueeze(1)

    # Indices are exact in float64, whatever the precision of the rest.
    return squared_norms(indices.double(), grad, rows, same, features_gram, indices.shape[1])


def _choose(layer: Layer, positions: int, weights: int, width: int, first: bool) -> Method:
    cheaper, reason = gram_is_cheaper(
        positions=positions, weights=weights, gram_width=width,
        pairs_per_row=layer.book.rows.pairs_per_row,
        first=first,
    )  # fmt: skip
    return layer.decide((Method.GRAM,), cheaper, reason, positions=positions)
