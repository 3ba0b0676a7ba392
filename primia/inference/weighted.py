"""Layers with the model party's clear weights W, at a masked input.

The data party once gets V = W - B for a model version; B is a stream of a seed of that version that
the model party and the dealer share. In a session it sends e = x0 - r0; then

    model party  y1 = W (e + x1) + bias + (B r0 - s)     the last from the dealer
    data party   y0 = V r0 + s                           needs no film: may be done before

and y0 + y1 = W x + bias. A B that served two models would show the data party their difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from primia.inference.bits import Words
from primia.inference.operations import Conv2d, Linear, Op
from primia.inference.prg import Prg
from primia.inference.program import Integers, Program, Weights
from primia.inference.ring import convolve, multiply, per_channel, scale_channels, unsigned

Masked = Mapping[str, Words]
"""V = W - B by weight name."""

HEAVY = (Conv2d, Linear)  # worth doing before the film is there


def product(op: Op, weight: Words, x: Words) -> Words:
    """The layer's linear part."""
    match op:
        case Conv2d():
            return convolve(op, weight, x)
        case Linear():
            return multiply(weight, x)
        case _:
            return scale_channels(weight, x)


def weight_mask(prg: Prg, name: str, shape: tuple[int, ...]) -> Words:
    """B of one layer."""
    mask: Words = prg.draw(f"weight|{name}", shape)
    return mask


def mask_weights(
    program: Program, weights: Weights, mask_seed: bytes
) -> Iterator[tuple[str, Words]]:
    """What the data party gets once for this model version: (name, V), in program order."""
    prg = Prg(mask_seed)
    for name, shape in program.weight_shapes().items():
        if name.endswith(".weight"):
            yield name, unsigned(weights[name]) - weight_mask(prg, name, shape)


def wide_bias(bias: Integers, op: Op, scale: int, fraction_bits: int, ndim: int) -> Words:
    """A bias, of norms at F fraction bits and of others at 2F, as wide and shaped as the result."""
    lift = scale - (2 * fraction_bits if isinstance(op, HEAVY) else fraction_bits)
    return per_channel(unsigned(bias) << np.uint64(lift), ndim)
