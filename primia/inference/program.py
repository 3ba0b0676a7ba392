"""A network as public data: operations, shapes and ranges, but no weights.

Both parties and the dealer hold the same program and check its hash, or a mismatch would give
plausible garbage. The text is canonical: one program has one JSON text and so one SHA-256.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from primia.errors import PeerError
from primia.inference.operations import MAX_ELEMENTS, MAX_WEIGHTS, OPS, Input, Op, Shape
from primia.types import Digest, sha256

VERSION = 2  # 1: a norm's weights were applied to every value, at a message of that size
FRACTION_BITS = 16
MAX_BYTES = 1 << 20  # of the JSON text
MAX_NODES = 2000
MAX_CLASSES = 1000
MAX_TOTAL = 1 << 28  # values of one film, and weights, over all nodes: 2 GiB in the ring
MAX_BOUND = 2.0**17  # far above any trained network; leaves the ring 12 bits at 3 x 16 of fraction
REMEDY = "both sides must run the same release of primia; prepare the model again"

Answer = Literal["class", "probabilities", "logits"]
Normalisation = Literal["film", "fixed"]
Integers = npt.NDArray[np.int64]
Weights = Mapping[str, Integers]
"""By `<node>.weight` and `<node>.bias`. With F fraction bits; the bias of Conv2d and Linear 2F."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}")
_VERSION = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Node:
    """One step. `inputs` are positions of earlier nodes; `shape` and `bound` are the output's.

    bound: no value is larger in magnitude, as a real number; calibrated, headroom included.
    """

    name: str
    op: Op
    inputs: tuple[int, ...]
    shape: Shape
    bound: float


@dataclass(frozen=True)
class Program:
    """The nodes in order of work; the first is the film, the last gives one logit a class.

    normalisation: "film", each film by its own mean and deviation, as primia trains; or "fixed",
    pixels from 0 to 1 by `mean` and `std`, one number a channel, which are empty otherwise.
    model_version: new at each `prepare`; the model's mask and its corrections hang on it.

    Raises ValueError for anything that does not hold together.
    """

    nodes: tuple[Node, ...]
    classes: tuple[str, ...]
    answer: Answer
    normalisation: Normalisation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    model_version: str
    fraction_bits: int = FRACTION_BITS
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"program version {self.version}, this release knows {VERSION}")
        if self.fraction_bits != FRACTION_BITS:
            raise ValueError(f"fraction_bits {self.fraction_bits}, need {FRACTION_BITS}")
        if not _VERSION.fullmatch(self.model_version):
            raise ValueError("model_version is not 32 hexadecimal digits")
        if self.answer not in get_args(Answer):
            raise ValueError(f"answer {self.answer!r} is none of {', '.join(get_args(Answer))}")
        _check_classes(self.classes)
        _check_nodes(self.nodes)
        if sum(math.prod(s) for s in self.weight_shapes().values()) > MAX_TOTAL:
            raise ValueError(f"over {MAX_TOTAL} weights; use a smaller network")
        if self.nodes[-1].shape != (len(self.classes),):
            raise ValueError(
                f"the last node gives {self.nodes[-1].shape} for {len(self.classes)} classes"
            )
        if self.normalisation not in get_args(Normalisation):
            raise ValueError(f"normalisation {self.normalisation!r} is neither film nor fixed")
        count = self.input_shape[0] if self.normalisation == "fixed" else 0
        if not len(self.mean) == len(self.std) == count:
            raise ValueError(f"{self.normalisation} normalisation takes {count} means and stds")
        if not all(abs(m) <= 1e3 for m in self.mean) or not all(1e-3 <= s <= 1e3 for s in self.std):
            raise ValueError("mean or std is out of range")

    @cached_property
    def digest(self) -> Digest:
        """The program hash."""
        return sha256(to_json(self))

    @property
    def input_shape(self) -> Shape:
        return self.nodes[0].shape

    def weight_shapes(self) -> dict[str, Shape]:
        """Every weight of the model by name, in the order of the nodes."""
        found: dict[str, Shape] = {}
        for node in self.nodes:
            shapes = node.op.weights(*(self.nodes[i].shape for i in node.inputs))
            found |= {f"{node.name}.{part}": shape for part, shape in shapes.items()}
        return found


def to_json(program: Program) -> bytes:
    """The canonical text: sorted keys, no spaces, ASCII."""
    raw = asdict(program)
    for node, plain in zip(program.nodes, raw["nodes"], strict=True):
        plain["op"]["kind"] = node.op.kind
    text = json.dumps(raw, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def from_json(text: bytes) -> Program:
    """The program of a canonical text that somebody else wrote.

    Raises PeerError when it is not canonical, over a limit, names an unknown operation, or
    states a shape that its operations do not give.
    """
    if len(text) > MAX_BYTES:
        raise PeerError(f"program of {len(text)} bytes, the limit is {MAX_BYTES}; {REMEDY}")
    try:
        program = _program(json.loads(text.decode("ascii")))
        canonical = to_json(program)
    except (ValueError, TypeError, RecursionError) as err:
        raise PeerError(f"program refused: {err or type(err).__name__}; {REMEDY}") from err
    if canonical != text:
        raise PeerError(f"program refused: its text is not canonical; {REMEDY}")
    return program


def check_weights(program: Program, weights: Weights) -> None:
    """Raise ValueError unless `weights` are exactly the program's, of 64-bit integers, in range."""
    shapes = program.weight_shapes()
    if weights.keys() != shapes.keys():
        odd = sorted(weights.keys() ^ shapes.keys())
        raise ValueError(f"weight {odd[0]!r} is missing or belongs to no layer")
    for name, shape in shapes.items():
        array = weights[name]
        if array.dtype != np.int64 or array.shape != shape:
            raise ValueError(
                f"{name} is {array.dtype} {array.shape}, the program says int64 {shape}"
            )
        if array.size and (array.min() <= -(1 << 62) or array.max() >= 1 << 62):
            raise ValueError(f"{name} has a value that the ring cannot hold")


def _check_classes(classes: tuple[str, ...]) -> None:
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise ValueError(f"{len(classes)} classes, need 2 to {MAX_CLASSES}")
    if len(set(classes)) != len(classes):
        raise ValueError("two classes have one name")
    if not all(c.isprintable() and 1 <= len(c) <= 120 for c in classes):
        raise ValueError("a class name is empty, over 120 characters or not printable")


def _check_nodes(nodes: tuple[Node, ...]) -> None:
    if not 2 <= len(nodes) <= MAX_NODES:
        raise ValueError(f"{len(nodes)} nodes, need 2 to {MAX_NODES}")
    if len({n.name for n in nodes}) != len(nodes):
        raise ValueError("two nodes have one name")
    used: set[int] = {len(nodes) - 1}
    for position, node in enumerate(nodes):
        if not _NAME.fullmatch(node.name):
            raise ValueError(f"node name {node.name[:130]!r} has other than letters, digits, _.-")
        if isinstance(node.op, Input) != (position == 0):
            raise ValueError(f"{node.name}: the film is the first node, and no other")
        if len(node.inputs) != node.op.arity or not all(0 <= i < position for i in node.inputs):
            raise ValueError(f"{node.name}: needs {node.op.arity} earlier nodes as its inputs")
        if not 0 < node.bound <= MAX_BOUND:
            raise ValueError(f"{node.name}: bound {node.bound} is not from 0 to 2^17")
        _check_shape(node, [nodes[i].shape for i in node.inputs])
        used |= set(node.inputs)
    if sum(math.prod(n.shape) for n in nodes) > MAX_TOTAL:
        raise ValueError(f"over {MAX_TOTAL} values a film in all; use a smaller film or network")
    if len(used) != len(nodes):
        idle = min(set(range(len(nodes))) - used)
        raise ValueError(f"{nodes[idle].name}: nothing uses it")


def _check_shape(node: Node, inputs: list[Shape]) -> None:
    try:
        shape = node.op.shape(*inputs)
    except ValueError as err:
        raise ValueError(f"{node.name} ({node.op.kind}): {err}") from err
    if shape != node.shape:
        raise ValueError(
            f"{node.name} ({node.op.kind}): gives {shape}, the program says {node.shape}"
        )
    if math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"{node.name}: over {MAX_ELEMENTS} values; use a smaller film")
    if any(math.prod(w) > MAX_WEIGHTS for w in node.op.weights(*inputs).values()):
        raise ValueError(f"{node.name}: over {MAX_WEIGHTS} weights in one layer")


def _program(raw: Any) -> Program:
    values = _exactly(raw, {f.name for f in fields(Program)}, "program")
    nodes = _list(values["nodes"], dict, "nodes", MAX_NODES)
    return Program(
        nodes=tuple(_node(n) for n in nodes),
        classes=_list(values["classes"], str, "classes", MAX_CLASSES),
        answer=_typed(values["answer"], str, "answer"),
        normalisation=_typed(values["normalisation"], str, "normalisation"),
        mean=_list(values["mean"], float, "mean", 1 << 14),
        std=_list(values["std"], float, "std", 1 << 14),
        model_version=_typed(values["model_version"], str, "model_version"),
        fraction_bits=_typed(values["fraction_bits"], int, "fraction_bits"),
        version=_typed(values["version"], int, "version"),
    )


def _node(raw: Any) -> Node:
    values = _exactly(raw, {f.name for f in fields(Node)}, "node")
    return Node(
        name=_typed(values["name"], str, "name"),
        op=_op(values["op"]),
        inputs=_list(values["inputs"], int, "inputs", 2),
        shape=_list(values["shape"], int, "shape", 3),
        bound=_typed(values["bound"], float, "bound"),
    )


def _op(raw: Any) -> Op:
    kind = _typed(_typed(raw, dict, "op").get("kind"), str, "op.kind")
    if kind not in OPS:
        raise ValueError(f"operation {kind[:40]!r} is unknown, known are {', '.join(OPS)}")
    cls = OPS[kind]
    types = {f.name: {"int": int, "float": float}[str(f.type)] for f in fields(cls)}
    values = _exactly(raw, {*types, "kind"}, kind)
    return cls(**{name: _typed(values[name], wanted, name) for name, wanted in types.items()})


def _exactly(raw: Any, keys: set[str], where: str) -> dict[str, Any]:
    values: dict[str, Any] = _typed(raw, dict, where)
    if values.keys() != keys:
        odd = sorted(values.keys() ^ keys)
        raise ValueError(f"{where}: key {odd[0][:40]!r} is missing or unknown")
    return values


def _typed(value: Any, wanted: type, where: str) -> Any:
    if type(value) is not wanted:  # a bool is no int here
        raise ValueError(f"{where}: expected {wanted.__name__}, found {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: not finite")
    return value


def _list(raw: Any, wanted: type, where: str, limit: int) -> tuple[Any, ...]:
    values: list[Any] = _typed(raw, list, where)
    if len(values) > limit:
        raise ValueError(f"{where}: {len(values)} entries, the limit is {limit}")
    return tuple(_typed(v, wanted, where) for v in values)
