"""Per layer: hold each row's gradient, or take only its norm? Decided from shapes.

Early layers see many positions and have few weights: their per-sample gradients cost no more
than the batch gradient that plain training computes, and little memory. Late layers see few
positions and have many weights: there the norm alone is taken from Gram matrices, and the
weighted sum is one ordinary weight-gradient call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Method(StrEnum):
    """How a layer's per-unit norms are found."""

    PER_SAMPLE = "per-sample"  # the gradient of each row, kept until the factors are known
    PIXEL_GRAM = "pixel-gram"  # convolution of stride 1: shifted sums of the pixels' Gram matrix
    UNFOLD_GRAM = "unfold-gram"  # Gram matrix of unfolded patches
    GRAM = "gram"  # linear layer, embedding: Gram matrix of the positions
    VMAP = "vmap"  # torch.func over this module alone


@dataclass(frozen=True)
class Choice:
    """What was chosen for one layer, and from what.

    positions: T, over which one row's gradient is a sum; weights: trainable numbers.
    """

    path: str
    kind: str
    positions: int
    weights: int
    method: Method
    reason: str


# A float of per-sample gradient is written once and read twice; a multiply-add of a Gram matrix
# runs in small products. Time of the first over the second, measured on one AVX-512 core with
# the layers of ResNet-18 at 28 and 224 px; the ranking of the layers hardly depends on it.
_FLOAT_OVER_MULTIPLY_ADD = 60


_MOST_HELD = 1 << 20
"""Weights of a first layer up to which its per-sample gradients are held in any case."""


def gram_is_cheaper(
    *, positions: int, weights: int, gram_width: int, pairs_per_row: float, first: bool
) -> tuple[bool, str]:
    """Whether norms from Gram matrices cost less than per-sample gradients, and why.

    gram_width: multiply-adds in one entry of both Gram matrices.
    pairs_per_row: inner products for one row; 1 unless units have several rows.
    first: whether the layer sees the films themselves. Raw films may be far from zero, and
        per-sample gradients do not cancel.
    """
    if first and positions > 1 and weights <= _MOST_HELD:
        return False, "sees the input itself"
    gram = positions * positions * gram_width
    held = weights * _FLOAT_OVER_MULTIPLY_ADD
    cheaper = gram * pairs_per_row < held
    # The pairs are left out: how many rows a unit of the batch has is nobody else's business.
    return cheaper, f"gram {gram:.2g} a pair, held {held:.2g} a row"


def table(choices: Iterable[Choice]) -> str:
    """The choices as text, one line a layer."""
    lines = [("layer", "type", "positions", "weights", "method", "reason")]
    lines += [
        (c.path or "(model)", c.kind, str(c.positions), str(c.weights), c.method.value, c.reason)
        for c in choices
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
