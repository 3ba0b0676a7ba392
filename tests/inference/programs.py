"""Small programs and their weights, made up for tests."""

from __future__ import annotations

import numpy as np

from primia.inference.operations import (
    Add,
    AvgPool2d,
    Conv2d,
    Flatten,
    GroupNorm,
    Input,
    Linear,
    MaxPool2d,
    Op,
    ReLU,
)
from primia.inference.program import Answer, Integers, Node, Program


def program_of(
    ops: list[tuple[Op, tuple[int, ...]]], *, answer: Answer = "logits", bound: float = 16.0
) -> Program:
    """The operations as nodes, with the shapes that follow and one bound for all."""
    nodes: list[Node] = []
    for number, (op, inputs) in enumerate(ops):
        shape = op.shape(*(nodes[i].shape for i in inputs))
        nodes.append(Node(f"n{number}", op, inputs, shape, bound))
    channels = nodes[0].shape[0]
    return Program(
        nodes=tuple(nodes),
        classes=tuple(f"class-{i}" for i in range(nodes[-1].shape[0])),
        answer=answer,
        normalisation="fixed",
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        model_version="0" * 32,
    )


def residual_program(side: int = 12, *, norm: bool = True, answer: Answer = "logits") -> Program:
    """A residual block as in ResNet-18, with max pooling before and averaging behind."""
    group_norm = GroupNorm(2, 1e-5, 2**-10, 2.0**10)
    return program_of(
        [
            (Input(1, side, side), ()),
            (Conv2d(3, 1, 1, 1, 1, 4), (0,)),
            (MaxPool2d(3, 2, 1), (1,)),
            (ReLU(), (2,)),
            (Conv2d(3, 1, 1, 1, 1, 4), (3,)),
            (group_norm, (4,)) if norm else (ReLU(), (4,)),
            (Add(), (5, 3)),
            (ReLU(), (6,)),
            (AvgPool2d(side // 2, 1, 0), (7,)),
            (Flatten(), (8,)),
            (Linear(3), (9,)),
        ],
        answer=answer,
    )


def random_weights(program: Program, seed: int = 0) -> dict[str, Integers]:
    """He-scaled weights in fixed point; norms are near one and zero."""
    draw = np.random.default_rng(seed)
    scale = 2.0**program.fraction_bits
    norms = {n.name for n in program.nodes if n.op.kind in {"group-norm", "affine"}}
    found: dict[str, Integers] = {}
    for name, shape in program.weight_shapes().items():
        node, _, part = name.rpartition(".")
        if part == "bias":
            value = draw.normal(0, 0.1, shape) * (1 if node in norms else scale)
        elif node in norms:
            value = draw.normal(1, 0.1, shape)
        else:
            value = draw.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        found[name] = np.rint(value * scale).astype(np.int64)
    return found
