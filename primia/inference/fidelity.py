"""Does a prepared model answer as the network does? Measured on some of the owner's films."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from primia.errors import ConfigError
from primia.inference.encoding import encode, normalise
from primia.inference.program import FRACTION_BITS, Node, Program, Weights
from primia.inference.reference import fixed, real

MAX_ERROR = 5e-3  # in a logit, of its size where that is above 1
_FILMS = 8
_BATCH = 4


@dataclass(frozen=True)
class Fidelity:
    """error: the largest difference of a logit, of its size where that is above 1, between the
    network in float64 and the program in fixed point. same_class: of the `films` compared."""

    error: float
    same_class: int
    films: int


def compare(
    model: nn.Module,
    traced: dict[str, Tensor],
    program: Program,
    weights: Weights,
    pixels: npt.NDArray[np.uint8],
) -> Fidelity:
    """Ask network, traced graph and fixed point for the same films.

    traced: the program's weights in float64. Raises ConfigError when the graph is not the network,
    or when fixed point loses too much, naming the layer where most is lost.
    """
    chosen = pixels[:: max(1, len(pixels) // _FILMS)][:_FILMS]
    error, same = 0.0, 0
    lost: dict[str, float] = {}
    for start in range(0, len(chosen), _BATCH):
        part = chosen[start : start + _BATCH]
        expected, exact = _in_float(model, traced, program, part)
        logits = _in_fixed_point(program, weights, part, exact, lost)
        error = max(error, float((logits - expected).abs().max()) / _size(expected))
        same += int((logits.argmax(1) == expected.argmax(1)).sum())
    if error > MAX_ERROR:
        worst = max(lost, key=lambda name: lost[name])
        raise ConfigError(
            f"layer {worst}: fixed point is off by {lost[worst]:.1%} there and by {error:.1e} in "
            f"a logit (limit {MAX_ERROR}): its values or weights are too small for "
            f"{FRACTION_BITS} fraction bits; put a norm behind it and train again"
        )
    return Fidelity(error, same, len(chosen))


def _in_float(
    model: nn.Module, traced: dict[str, Tensor], program: Program, pixels: npt.NDArray[np.uint8]
) -> tuple[Tensor, list[Tensor]]:
    """The network's logits, and the values of all nodes."""
    films = torch.from_numpy(normalise(program, pixels))
    exact: list[Tensor] = []

    def keep(_number: int, _node: Node, value: Tensor, _inputs: list[Tensor]) -> None:
        exact.append(value)

    with torch.inference_mode():
        expected: Tensor = model(films)
        logits = real(program, traced, films, keep)
    if float((logits - expected).abs().max()) > 1e-6 * _size(expected):
        raise ConfigError(
            "the traced network answers otherwise than the network itself; its forward must do "
            "the same for every film, and depend on nothing but the film"
        )
    return expected, exact


def _in_fixed_point(
    program: Program,
    weights: Weights,
    pixels: npt.NDArray[np.uint8],
    exact: list[Tensor],
    lost: dict[str, float],
) -> Tensor:
    def note(number: int, node: Node, value: Tensor, _inputs: list[Tensor]) -> None:
        size = exact[number].abs().max().clamp_min(1e-6)
        off = float((value - exact[number]).abs().max() / size)
        lost[node.name] = max(off, lost.get(node.name, 0.0))

    logits = fixed(program, weights, encode(program, pixels), note)
    return torch.from_numpy(logits).double() / 2.0**FRACTION_BITS


def _size(logits: Tensor) -> float:
    return max(1.0, float(logits.abs().max()))
