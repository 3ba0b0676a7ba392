"""The public numbers of a program: fraction bits of each value, and where it is truncated.

A product leaves its value wide (2F fraction bits, or 3F after a norm); it is truncated only where
an operation needs it narrow, F bits, and then mostly in an opening that happens anyway. All three
parties derive the same layout from the program, so nothing here may depend on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from primia.errors import ConfigError
from primia.inference.operations import (
    Add,
    Affine,
    AvgPool2d,
    Conv2d,
    GroupNorm,
    Linear,
    MaxPool2d,
    ReLU,
    Tanh,
)
from primia.inference.ops.compare import bit_length, window
from primia.inference.ops.norm_numbers import NormNumbers, norm_numbers
from primia.inference.ops.opening import MAX_BITS
from primia.inference.ops.segments import tanh_table
from primia.inference.program import Node, Program

AVERAGE_BITS = 28  # fraction bits of 1 / (window of an average)


@dataclass(frozen=True)
class Place:
    """One node's numbers. `scale`: its result's fraction bits; `narrow`: truncate its inputs first.

    factor: what an average multiplies its sum with.
    """

    scale: int
    narrow: bool = False
    factor: int = 1
    norm: NormNumbers | None = None


def layout(program: Program) -> tuple[Place, ...]:
    """The numbers of every node.

    Raises ConfigError, naming the node, when its values cannot fit the ring.
    """
    places: list[Place] = []
    for node in program.nodes:
        try:
            place = _place(program, node, places)
            _check(node.bound, place.scale)
        except ValueError as err:
            raise ConfigError(
                f"layer {node.name}: {err}; prepare the model again with films that give smaller "
                "values, or without this layer"
            ) from err
        places.append(place)
    return tuple(places)


def input_scale(program: Program, places: tuple[Place, ...], number: int, position: int = 0) -> int:
    """Fraction bits of a node's input as the node takes it."""
    if places[number].narrow:
        return program.fraction_bits
    return places[program.nodes[number].inputs[position]].scale


def compared_bits(program: Program) -> tuple[int | None, ...]:
    """How many bits each node's comparisons take; None where nothing is compared."""
    places = layout(program)
    found: list[int | None] = []
    for number, node in enumerate(program.nodes):
        bound = program.nodes[node.inputs[0]].bound if node.inputs else 0.0
        scale = input_scale(program, places, number) if node.inputs else 0
        norm = places[number].norm
        match node.op:
            case ReLU():
                found.append(window(bound, scale).bits)
            case MaxPool2d():
                found.append(window(2 * bound, scale).bits)
            case Tanh():
                found.append(tanh_table(bound, scale, program.fraction_bits).window.bits)
            case _:
                found.append(None if norm is None else norm.table.window.bits)
    return tuple(found)


def _place(program: Program, node: Node, places: list[Place]) -> Place:
    f = program.fraction_bits
    op = node.op
    if not node.inputs:
        return Place(f)
    source = program.nodes[node.inputs[0]]
    scale = places[node.inputs[0]].scale
    match op:
        case Conv2d() | Linear():
            return Place(2 * f, narrow=scale > f)
        case ReLU():
            return Place(f)
        case Tanh():
            return Place(2 * f, narrow=scale > 3 * f)
        case Add():
            widest = max(places[i].scale for i in node.inputs)
            fits = all(_fits(program.nodes[i].bound, widest) for i in node.inputs)
            narrow = not (fits and _fits(node.bound, widest))
            return Place(f if narrow else widest, narrow=narrow)
        case MaxPool2d():
            narrow = scale > f and not _fits(2 * source.bound, scale)
            _check(2 * source.bound, f if narrow else scale)
            return Place(f if narrow else scale, narrow=narrow)
        case AvgPool2d():
            return _average(op.kernel**2, source.bound, scale, f)
        case Affine():
            narrow = scale > f and not _fits(node.bound, scale + f)
            return Place((f if narrow else scale) + f, narrow=narrow)
        case GroupNorm():
            narrow = scale > 3 * f
            count = 1
            for side in source.shape:
                count *= side
            numbers = norm_numbers(
                count // op.groups, source.bound, op.low, op.high, f if narrow else scale, f
            )
            return Place(f + numbers.factor_scale, narrow=narrow, norm=numbers)
        case _:  # Flatten
            return Place(scale)


def _average(count: int, bound: float, scale: int, f: int) -> Place:
    """A power of two only moves the point; other sums are multiplied with 2^k / count."""
    shift = count.bit_length() - 1
    exact = count == 1 << shift
    need = shift if exact else shift + 13

    def room(scale: int) -> int:
        return MAX_BITS - 1 - bit_length(bound, scale)

    narrow = scale > f and room(scale) < need
    scale = f if narrow else scale
    # A wide sum takes no more than it needs, for what comes after it.
    bits = shift if exact else min(AVERAGE_BITS if scale == f else need, room(scale))
    return Place(scale + bits, narrow=narrow, factor=1 if exact else round((1 << bits) / count))


def _fits(bound: float, scale: int) -> bool:
    return bit_length(bound, scale) < MAX_BITS


def _check(bound: float, scale: int) -> None:
    if not _fits(bound, scale):
        raise ValueError(f"values up to {bound:.4g} do not fit {scale} fraction bits")
