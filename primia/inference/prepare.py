"""From a trained network to a prepared model: program, ranges, and weights in fixed point.

Ranges come from films of the model owner and are part of the program, which the data owner and
the dealer see; so they are rounded to powers of two, up for bounds, outwards for variances.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from primia.errors import ConfigError
from primia.inference.encoding import normalise
from primia.inference.fidelity import Fidelity, compare
from primia.inference.folding import scale_before_norm, simplify
from primia.inference.layout import layout
from primia.inference.operations import AvgPool2d, Conv2d, GroupNorm, Linear
from primia.inference.ops.norm_numbers import root_fits
from primia.inference.program import (
    FRACTION_BITS,
    MAX_BOUND,
    Answer,
    Integers,
    Node,
    Normalisation,
    Program,
)
from primia.inference.reference import group_statistics, real
from primia.inference.tracing import Graph, trace

HEADROOM = 4.0  # between the largest value seen and the bound
MIN_FILMS = 16  # fewer say little about the range of a layer
SMALLEST_BOUND = 2.0**-4
MOST_WEIGHT = 2.0**15
_BATCH = 4

Progress = Callable[[float], None]
"""Called with the share of the work that is done."""


@dataclass(frozen=True)
class Wanted:
    """What the model owner decides: names of the classes, what is answered, how films come in."""

    classes: tuple[str, ...]
    answer: Answer
    channels: int
    normalisation: Normalisation = "film"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A model ready for `model_file.pack`, and what was seen on the way.

    largest: of each node's values, over the films.
    """

    program: Program
    weights: dict[str, Integers]
    largest: tuple[float, ...]
    films: int
    fidelity: Fidelity


@dataclass
class _Ranges:
    film: float  # bound of the input
    largest: dict[str, float] = field(default_factory=dict)
    variance: dict[str, tuple[float, float]] = field(default_factory=dict)  # with eps


def prepare(
    model: nn.Module,
    wanted: Wanted,
    pixels: npt.NDArray[np.uint8],
    *,
    model_version: str,
    progress: Progress | None = None,
) -> Prepared:
    """Prepare `model`, in place put into evaluation mode on the CPU in float64.

    pixels: grey films (n, side, side) of the size that will be asked, 16 or more.
    model_version: 32 fresh hexadecimal digits.

    Raises ConfigError naming the layer and the remedy when the network has an operation that is
    not covered, or values that do not fit.
    """
    if len(pixels) < MIN_FILMS:
        raise ConfigError(
            f"{len(pixels)} films to calibrate on, need {MIN_FILMS}; name a folder with more"
        )
    tell = progress or (lambda _: None)
    model = model.cpu().double()
    shape = (wanted.channels, *pixels.shape[1:])
    graph = simplify(trace(model, shape))
    unknown = _unknown(graph, wanted, pixels)
    rough = _program(graph, wanted, unknown, model_version)
    ranges = _calibrate(rough, _weights(graph), pixels, tell)
    _scale_norms(graph, ranges)
    program = _program(graph, wanted, ranges, model_version)
    _check_layout(program)
    _check_norms(program, _weights(graph))
    weights = _in_fixed_point(program, _weights(graph))
    fidelity = compare(model, _weights(graph), program, weights, pixels)
    tell(1.0)
    largest = tuple(ranges.largest[n.name] for n in program.nodes)
    return Prepared(program, weights, largest, len(pixels), fidelity)


def _unknown(graph: Graph, wanted: Wanted, pixels: npt.NDArray[np.uint8]) -> _Ranges:
    """Ranges to calibrate with: the film's own, all others as wide as can be."""
    if wanted.normalisation == "fixed":
        pairs = zip(wanted.mean, wanted.std, strict=True)
        film = max(max(abs(m), abs(1 - m)) / s for m, s in pairs)
    else:
        films = pixels.reshape(len(pixels), -1).astype(np.float64)
        centred = np.abs(films - films.mean(1, keepdims=True)).max(1)
        # A film is held at this bound when it is encoded: a bright marker of 4.6 deviations, held
        # at 4, moved a logit by 4.8e-3.
        film = float((centred / np.maximum(films.std(1), 1.0)).max()) * HEADROOM
    return _Ranges(film, dict.fromkeys(graph.layers, MAX_BOUND / HEADROOM))


def _program(graph: Graph, wanted: Wanted, ranges: _Ranges, model_version: str) -> Program:
    position = {name: number for number, name in enumerate(graph.layers)}
    nodes = []
    for layer in graph.layers.values():
        largest = HEADROOM * ranges.largest[layer.name] if layer.inputs else ranges.film
        bound = _power(max(SMALLEST_BOUND, largest))
        if not bound <= MAX_BOUND:
            raise ConfigError(
                f"layer {layer.name}: values up to {ranges.largest[layer.name]:.3g} are too large "
                f"for the ring (limit {MAX_BOUND / HEADROOM:.3g}); put a norm before it and train "
                "again"
            )
        inputs = tuple(position[i] for i in layer.inputs)
        op = layer.op
        if isinstance(op, GroupNorm) and layer.name in ranges.variance:
            op = _with_range(op, *ranges.variance[layer.name])
        nodes.append(Node(layer.name, op, inputs, graph.shapes[layer.name], bound))
    try:
        return Program(
            nodes=tuple(nodes),
            classes=wanted.classes,
            answer=wanted.answer,
            normalisation=wanted.normalisation,
            mean=wanted.mean,
            std=wanted.std,
            model_version=model_version,
        )
    except ValueError as err:
        raise ConfigError(f"the network cannot be prepared: {err}; change the network") from err


def _with_range(op: GroupNorm, low: float, high: float) -> GroupNorm:
    """Deviations four times smaller and larger than seen; nothing is under eps."""
    least = max(_power(low / HEADROOM**2) / 2, 2.0 ** math.floor(math.log2(max(op.eps, 2.0**-24))))
    return replace(op, low=least, high=max(_power(high * HEADROOM**2), 2 * least))


def _power(value: float) -> float:
    """The least power of two that is not below."""
    return 2.0 ** math.ceil(math.log2(value)) if math.isfinite(value) and value > 0 else math.inf


def _weights(graph: Graph) -> dict[str, Tensor]:
    return {
        f"{layer.name}.{part}": tensor
        for layer in graph.layers.values()
        for part, tensor in (("weight", layer.weight), ("bias", layer.bias))
        if tensor is not None
    }


def _calibrate(
    program: Program,
    weights: dict[str, Tensor],
    pixels: npt.NDArray[np.uint8],
    progress: Progress,
) -> _Ranges:
    ranges = _Ranges(program.nodes[0].bound)

    def watch(number: int, node: Node, value: Tensor, inputs: list[Tensor]) -> None:  # noqa: ARG001
        largest = float(value.abs().max())
        if not math.isfinite(largest):
            raise ConfigError(f"layer {node.name}: values are not finite; the model has diverged")
        ranges.largest[node.name] = max(largest, ranges.largest.get(node.name, 0.0))
        if isinstance(node.op, GroupNorm):
            variance = group_statistics(node.op, inputs[0])[0] + node.op.eps
            low, high = ranges.variance.get(node.name, (math.inf, 0.0))
            least, most = float(variance.min()), float(variance.max())
            ranges.variance[node.name] = (min(low, least), max(high, most))

    with torch.inference_mode():
        for start in range(0, len(pixels), _BATCH):
            films = torch.from_numpy(normalise(program, pixels[start : start + _BATCH]))
            real(program, weights, films, watch)
            progress(0.8 * (start + len(films)) / len(pixels))
    return ranges


def _scale_norms(graph: Graph, ranges: _Ranges) -> None:
    for layer in graph.layers.values():
        if isinstance(layer.op, GroupNorm):
            low, high = ranges.variance[layer.name]
            factor = scale_before_norm(graph, layer, (low * high) ** 0.25)
            ranges.variance[layer.name] = (low * factor**2, high * factor**2)
            ranges.largest[layer.inputs[0]] *= factor


def _check_layout(program: Program) -> None:
    layout(program)
    for node in program.nodes:
        if isinstance(node.op, AvgPool2d) and node.op.kernel > 1 << 10:
            raise ConfigError(f"layer {node.name}: averages over too much; use a smaller film")


def _check_norms(program: Program, weights: dict[str, Tensor]) -> None:
    for node, place in zip(program.nodes, layout(program), strict=True):
        if isinstance(node.op, GroupNorm) and place.norm is not None:
            largest = float(weights[f"{node.name}.weight"].abs().max())
            if not root_fits(largest, node.op.low, place.norm, FRACTION_BITS):
                raise ConfigError(
                    f"layer {node.name}: a weight of {largest:.3g} is too large for the small "
                    "variances that it meets; train with weight decay"
                )


def _in_fixed_point(program: Program, weights: dict[str, Tensor]) -> dict[str, Integers]:
    products = {n.name for n in program.nodes if isinstance(n.op, Conv2d | Linear)}
    found: dict[str, Integers] = {}
    for name in program.weight_shapes():
        node, _, part = name.rpartition(".")
        tensor = weights[name]
        largest = float(tensor.abs().max())
        if not largest <= MOST_WEIGHT:
            raise ConfigError(
                f"layer {node}: a {part} of {largest:.3g} is too large for fixed point (limit "
                f"{MOST_WEIGHT:.3g}); train with weight decay, or check its batch norm's variance"
            )
        bits = FRACTION_BITS * (2 if part == "bias" and node in products else 1)
        found[name] = np.rint(tensor.numpy() * 2.0**bits).astype(np.int64)
    return found
