"""A program in the clear: in fixed point as the protocol computes it, or in real numbers.

Fixed point is what both parties' shares add up to, with floor truncation where the protocol has
its own: each truncation may differ from it by one ulp (2^-16). GroupNorm and Tanh are the exact
functions here, rounded to one ulp; the protocol's segments come close to them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from primia.inference.operations import (
    Add,
    Affine,
    AvgPool2d,
    Conv2d,
    Flatten,
    GroupNorm,
    Input,
    Linear,
    MaxPool2d,
    ReLU,
    Tanh,
)
from primia.inference.program import Integers, Node, Program, Weights

AVERAGE_BITS = 28  # fraction bits of 1 / kernel squared

Watch = Callable[[int, Node, Tensor, list[Tensor]], None]
"""Called after each node with its number, the node, its real value and its inputs' real values."""


def fixed(
    program: Program, weights: Weights, films: Integers, watch: Watch | None = None
) -> Integers:
    """Logits (n, classes) of `films` (n, channels, height, width), both with F fraction bits."""
    bits = program.fraction_bits
    tensors = {name: torch.from_numpy(w) for name, w in weights.items()}

    def step(node: Node, inputs: list[Tensor]) -> Tensor:
        return _fixed_step(node, inputs, tensors, bits)

    def real(value: Tensor) -> Tensor:
        return value.double() / 2.0**bits

    logits: Integers = _run(program, torch.from_numpy(films), step, real, watch).numpy()
    return logits


def real(
    program: Program, weights: dict[str, Tensor], films: Tensor, watch: Watch | None = None
) -> Tensor:
    """Logits of normalised films in floating point, with real weights of the films' dtype."""

    def step(node: Node, inputs: list[Tensor]) -> Tensor:
        return _real_step(node, inputs, weights)

    return _run(program, films, step, lambda value: value, watch)


def _run(
    program: Program,
    films: Tensor,
    step: Callable[[Node, list[Tensor]], Tensor],
    real: Callable[[Tensor], Tensor],
    watch: Watch | None,
) -> Tensor:
    last = {i: n for n, node in enumerate(program.nodes) for i in node.inputs}
    values: dict[int, Tensor] = {}
    for number, node in enumerate(program.nodes):
        inputs = [values[i] for i in node.inputs]
        values[number] = films if isinstance(node.op, Input) else step(node, inputs)
        if watch is not None:
            watch(number, node, real(values[number]), [real(v) for v in inputs])
        for i in node.inputs:
            if last[i] == number:
                values.pop(i, None)  # nothing needs it any more; at 224 px memory counts
    return values[len(program.nodes) - 1]


def _fixed_step(node: Node, inputs: list[Tensor], weights: dict[str, Tensor], bits: int) -> Tensor:
    x = inputs[0]
    match node.op:
        case Conv2d() | Linear():
            wide = _product(node, x, weights)
            return wide >> bits
        case Affine():
            weight, bias = _per_channel(node, x, weights)
            return (x * weight >> bits) + bias
        case AvgPool2d(kernel, stride, padding):
            # A sum has no fraction of its own; the constant has, or 1 / n would be too coarse.
            total: Tensor = functional.avg_pool2d(x, kernel, stride, padding, divisor_override=1)
            mean: Tensor = total * round(2**AVERAGE_BITS / kernel**2) >> AVERAGE_BITS
            return mean
        case GroupNorm() | Tanh():
            scale = 2.0**bits
            parts = {
                k: v.double() / scale for k, v in weights.items() if k.startswith(f"{node.name}.")
            }
            return (_real_step(node, [x.double() / scale], parts) * scale).round().long()
        case _:
            return _real_step(node, inputs, weights)


def _real_step(node: Node, inputs: list[Tensor], weights: dict[str, Tensor]) -> Tensor:
    x = inputs[0]
    match node.op:
        case Conv2d() | Linear():
            return _product(node, x, weights)
        case ReLU():
            return x.clamp_min(0)
        case Tanh():
            return x.tanh()
        case MaxPool2d(kernel, stride, padding):
            return functional.max_pool2d(x, kernel, stride, padding)
        case AvgPool2d(kernel, stride, padding):
            return functional.avg_pool2d(x, kernel, stride, padding)
        case Add():
            return x + inputs[1]
        case GroupNorm():
            variance, mean = group_statistics(node.op, x)
            root = (variance + node.op.eps).clamp(node.op.low, node.op.high).rsqrt()
            groups = x.reshape(len(x), node.op.groups, -1)
            normal = ((groups - mean[..., None]) * root[..., None]).reshape(x.shape)
            weight, bias = _per_channel(node, x, weights)
            return normal * weight + bias
        case Affine():
            weight, bias = _per_channel(node, x, weights)
            return x * weight + bias
        case Flatten():
            return x.flatten(1)
        case _:
            raise AssertionError(node.op)


def group_statistics(op: GroupNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Variance (biased) and mean over each group of each film, (n, groups)."""
    groups = x.reshape(len(x), op.groups, -1)
    return groups.var(2, correction=0), groups.mean(2)


def _product(node: Node, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    weight, bias = weights[f"{node.name}.weight"], weights[f"{node.name}.bias"]
    if isinstance(node.op, Linear):
        return x @ weight.T + bias  # wraps as the ring does; functional.linear knows no integers
    assert isinstance(node.op, Conv2d)
    op = node.op
    return functional.conv2d(x, weight, bias, op.stride, op.padding, op.dilation, op.groups)


def _per_channel(node: Node, x: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    shape = (1, -1) + (1,) * (x.dim() - 2)
    weight, bias = weights[f"{node.name}.weight"], weights[f"{node.name}.bias"]
    return weight.reshape(shape), bias.reshape(shape)
