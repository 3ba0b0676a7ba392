"""Programs in float64 with torch: what the protocol is held against."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from primia.inference.operations import (
    Add,
    Affine,
    AvgPool2d,
    Conv2d,
    Flatten,
    GroupNorm,
    Linear,
    MaxPool2d,
    ReLU,
    Tanh,
)
from primia.inference.program import Integers, Node, Program, Weights


def plain_values(program: Program, weights: Weights, film: Integers) -> list[np.ndarray]:
    """Every node's real value for films in fixed point."""
    values = [torch.from_numpy(film * 2.0**-16)]
    for node in program.nodes[1:]:
        values.append(_node(node, weights, [values[i] for i in node.inputs]))
    return [v.numpy() for v in values]


def _node(node: Node, weights: Weights, x: list[torch.Tensor]) -> torch.Tensor:
    w = b = torch.empty(0)
    if f"{node.name}.weight" in weights:
        bits = 32 if isinstance(node.op, Conv2d | Linear) else 16
        w = torch.from_numpy(weights[f"{node.name}.weight"] * 2.0**-16)
        b = torch.from_numpy(weights[f"{node.name}.bias"] * 2.0**-bits)
    match node.op:
        case Conv2d() as op:
            return functional.conv2d(x[0], w, b, op.stride, op.padding, op.dilation, op.groups)
        case Linear():
            return functional.linear(x[0], w, b)
        case ReLU():
            return functional.relu(x[0])
        case Tanh():
            return torch.tanh(x[0])
        case MaxPool2d() as op:
            return functional.max_pool2d(x[0], op.kernel, op.stride, op.padding)
        case AvgPool2d() as op:
            return functional.avg_pool2d(x[0], op.kernel, op.stride, op.padding)
        case Add():
            return x[0] + x[1]
        case GroupNorm() as op:
            return functional.group_norm(x[0], op.groups, w, b, op.eps)
        case Affine():
            shape = (1, -1, *(1 for _ in x[0].shape[2:]))
            return x[0] * w.reshape(shape) + b.reshape(shape)
        case Flatten():
            return x[0].flatten(1)
    raise AssertionError(node.op.kind)
