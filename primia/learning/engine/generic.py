"""A module without a rule of its own: torch.func.vmap over that module alone, when asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch.func import functional_call, vjp, vmap

from primia.errors import ConfigError
from primia.learning.engine.choice import Method
from primia.learning.engine.layer import Layer
from primia.learning.engine.precision import autocast_dtype

_CHUNK_BYTES = 64 << 20  # of per-sample gradients at a time


def by_vmap(layer: Layer, *inputs: torch.Tensor, **named: object) -> torch.Tensor:
    """Rule for any module, children included, that maps tensors (rows, ...) to one such tensor.

    Exact for whatever torch.func can differentiate row by row, at the price of a second forward
    pass of the module and of its per-sample gradients. Not for modules that draw random numbers
    (dropout would be drawn again) or whose rows are not in the first dimension.
    """
    if named or not inputs or not all(isinstance(x, torch.Tensor) for x in inputs):
        raise ConfigError(
            f"module {layer.name}: called with something else than tensors by position; "
            "register a rule for it, or wrap it in a module that takes tensors only"
        )
    layer.called(inputs[0])
    if layer.wanted not in {None, Method.VMAP}:
        raise ConfigError(f"module {layer.name}: by_vmap has no other method than vmap")
    layer.note(Method.VMAP, "no rule of its own", positions=0)
    if autocast_dtype(inputs[0]) is not None:
        inputs = tuple(x.float() if x.is_floating_point() else x for x in inputs)
    names = tuple(layer.parameters)
    parameters = tuple(layer.parameters.values())
    out: torch.Tensor = _Generic.apply(layer, names, len(inputs), *inputs, *parameters)  # type: ignore[no-untyped-call]
    return out


class _Generic(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layer: Layer, names: tuple[str, ...], count: int, *tensors: torch.Tensor
    ) -> torch.Tensor:
        inputs = tensors[:count]
        ctx.layer, ctx.names, ctx.count = layer, names, count
        ctx.save_for_backward(*tensors)
        with torch.autocast(inputs[0].device.type, enabled=False), layer.unpatched():
            out = layer.module(*inputs)
        if not isinstance(out, torch.Tensor) or out.shape[:1] != inputs[0].shape[:1]:
            raise ConfigError(
                f"module {layer.name}: returns something else than one tensor with the rows "
                "first; register a rule for it, or wrap it in a module that does"
            )
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        layer: Layer = ctx.layer
        inputs, parameters = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        named = {n: p.detach() for n, p in zip(ctx.names, parameters, strict=True)}
        differentiable = [i for i, x in enumerate(inputs) if x.is_floating_point()]

        def one_row(
            grad_row: torch.Tensor, *rows: torch.Tensor
        ) -> tuple[dict[str, torch.Tensor], tuple[torch.Tensor, ...]]:
            def call(p: dict[str, torch.Tensor], *floats: torch.Tensor) -> torch.Tensor:
                whole = list(rows)
                for i, value in zip(differentiable, floats, strict=True):
                    whole[i] = value
                batch = tuple(value[None] for value in whole)
                with layer.unpatched():
                    out: torch.Tensor = functional_call(layer.module, p, batch)
                return out[0]

            pull = vjp(call, named, *(rows[i] for i in differentiable))[1]
            back = pull(grad_row)
            return back[0], back[1:]

        size = 4 * sum(p.numel() for p in parameters)
        chunk = max(1, _CHUNK_BYTES // size)
        with torch.autocast(grad.device.type, enabled=False):
            gradients, floats = vmap(one_row, chunk_size=chunk)(grad, *inputs)
        for name, per_row in gradients.items():
            layer.enter_gradients(name, per_row)
        back: list[torch.Tensor | None] = [None] * len(inputs)
        for i, value in zip(differentiable, floats, strict=True):
            back[i] = value
        return (None, None, None, *back, *[None] * len(parameters))
