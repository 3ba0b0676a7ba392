"""The two parties' machines, over a whole program.

They say what to send and how much to expect and touch no network, file or clock. The nodes are
worked off in order, by all three alike; a value's masks and streams carry its node's number, so
nothing is used twice within a session, and the seeds serve one session.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import cast

import numpy as np

from primia.errors import DataError
from primia.inference.bits import Words
from primia.inference.correlations import Corrections, DataSource, ModelSource, Party
from primia.inference.layout import layout
from primia.inference.messages import Prediction, Step, receive, send
from primia.inference.operations import (
    Add,
    AvgPool2d,
    Flatten,
    GroupNorm,
    MaxPool2d,
    ReLU,
    Tanh,
)
from primia.inference.ops.answer import (
    answer_class,
    answer_logits,
    answer_probabilities,
    class_window,
    exp_table,
)
from primia.inference.ops.norm import norm
from primia.inference.ops.opening import truncate
from primia.inference.ops.pool import average_pool, max_pool
from primia.inference.ops.rectify import Profile, rectify
from primia.inference.ops.segments import segments, tanh_table
from primia.inference.program import Integers, Node, Program, Weights
from primia.inference.walk import Walk, finished, input_label, input_labels
from primia.inference.weighted import HEAVY, Masked, product, wide_bias

Received = bytes | bytearray | memoryview
Machine = Generator[Step, Received, Prediction | None]


def data_party(
    program: Program,
    given: Masked,
    seed: bytes,
    film: Integers,
    ready: Corrections | None = None,
    *,
    profile: Profile = "lan",
) -> Generator[Step, Received, Prediction]:
    """The data party's side for films (n, channels, height, width), normalised, at F bits.

    given: V of this model version, from `mask_weights`; ready: what `prepare_products` made of it
    and this seed, if that was done before, and then `given` may lack the heavy layers.
    Raises DataError for films of another shape, PeerError for a message that does not fit.
    """
    if film.ndim != 4 or film.shape[1:] != program.input_shape or film.dtype != np.int64:
        raise DataError(
            f"film {film.dtype} {film.shape} does not fit the program's input "
            f"{program.input_shape}; resize it as the model expects"
        )
    walk = _Work(program, DataSource(seed), film.shape[0], profile)
    walk.given, walk.ready = given, ready
    walk.values[0] = film.view(np.uint64).copy()
    answer = yield from walk.run()
    return cast(Prediction, answer)


def model_party(
    program: Program,
    weights: Weights,
    corrections: Corrections,
    seed: bytes,
    films: int = 1,
    *,
    profile: Profile = "lan",
) -> Generator[Step, Received, None]:
    """The model party's side; it learns nothing.

    weights: as `program.check_weights` demands; corrections: this session's, from the dealer.
    Raises PeerError when a message or the corrections do not fit.
    """
    walk = _Work(program, ModelSource(seed, corrections), films, profile)
    walk.weights = weights
    walk.values[0] = np.zeros((films, *program.input_shape), np.uint64)
    yield from walk.run()
    corrections.finish()


def prepare_products(
    program: Program, given: Masked, seed: bytes, films: int = 1
) -> Iterator[bytes]:
    """The data party's V r0 of all convolutions and linear layers: its work without a film."""
    source = DataSource(seed)
    masks: dict[str, Words] = {}
    places = layout(program)
    for number, node in enumerate(program.nodes):
        if isinstance(node.op, HEAVY):
            label = input_label(node.inputs[0], places[number].narrow)
            if label not in masks:
                shape = (films, *program.nodes[node.inputs[0]].shape)
                masks[label] = source.mask(label, shape)
            v = given[f"{node.name}.weight"]
            yield product(node.op, v, masks[label]).tobytes()
        for used in finished(program, number):
            for label in input_labels(used):
                masks.pop(label, None)


class _Work(Walk):
    given: Masked
    ready: Corrections | None = None
    weights: Weights

    def __init__(self, program: Program, party: Party, films: int, profile: Profile) -> None:
        super().__init__(program, films, profile)
        self.party = party
        self.values: dict[int, Words] = {}
        self.narrowed: dict[int, Words] = {}
        self.masked: dict[str, Words] = {}  # r0 at the data party, e + x1 at the model party

    def run(self) -> Machine:
        for number, node in enumerate(self.program.nodes):
            if not node.inputs:
                continue
            values = []
            for source in node.inputs:
                narrow = self.places[number].narrow
                values.append((yield from self._narrow(source)) if narrow else self.values[source])
            self.values[number] = yield from self._node(number, values)
            for used in finished(self.program, number):
                self.values.pop(used, None)
                self.narrowed.pop(used, None)
                for label in input_labels(used):
                    self.masked.pop(label, None)
        answer = yield from self._answer()
        return answer

    def _narrow(self, number: int) -> Generator[Step, Received, Words]:
        if self.places[number].scale == self.f:
            return self.values[number]
        if number not in self.narrowed:
            shift = self.places[number].scale - self.f
            item = (f"{number}/narrow", self.values[number], shift)
            (self.narrowed[number],) = yield from truncate(self.party, [item])
        return self.narrowed[number]

    def _node(self, number: int, values: list[Words]) -> Generator[Step, Received, Words]:
        node, place = self.program.nodes[number], self.places[number]
        label, scale, shape = str(number), self.scale_in(number), self.shape(number)
        bound, shift, x = self.bound(node.inputs[0]), scale - self.f, values[0]
        out: Words
        match node.op:
            case ReLU():
                how = self.comparison(number)
                out = yield from rectify(self.party, label, x.reshape(-1), shift, how)
            case MaxPool2d() as op:
                lowest, how = int(-bound * 2.0**scale), self.comparison(number, 2)
                out = yield from max_pool(self.party, label, op, x, lowest, shift, how)
            case AvgPool2d():
                out = average_pool(node.op, x, place.factor)
            case Tanh():
                table = tanh_table(bound, scale, self.f)
                out = yield from segments(self.party, label, x.reshape(-1), table)
            case GroupNorm():
                assert place.norm is not None
                groups = x.reshape(self.films * node.op.groups, -1)
                weight, eps = self._norm_weight(node), node.op.eps
                out = yield from norm(
                    self.party, label, groups, place.norm, eps, weight, self.films
                )
                if self.party.role == 1:
                    out = self._with_bias(number, out.reshape(shape))
            case Add():
                out = x << np.uint64(place.scale - scale)
                out += values[1] << np.uint64(place.scale - self.scale_in(number, 1))
            case Flatten():
                out = x
            case _:
                taken = input_label(node.inputs[0], place.narrow)
                out = yield from self._weighted(number, taken, x)
        return out.reshape(shape)

    def _weighted(self, number: int, label: str, x: Words) -> Generator[Step, Received, Words]:
        """See `weighted`; one masked input serves all layers that take it."""
        node = self.program.nodes[number]
        name = f"{node.name}.weight"
        if self.party.role == 0:
            if label not in self.masked:
                mask = self.party.mask(label, x.shape)
                self.masked[label] = mask
                yield from send(x - mask)
            y = self._data_product(number, name, self.masked[label])
        else:
            if label not in self.masked:
                self.masked[label] = (yield from receive(x)) + x
            y = product(node.op, self.weights[name].view(np.uint64), self.masked[label])
            y = self._with_bias(number, y)
        y += self.party.share(f"{number}/product", y.shape)
        return y

    def _norm_weight(self, node: Node) -> Words:
        name = f"{node.name}.weight"
        return self.given[name] if self.party.role == 0 else self.weights[name].view(np.uint64)

    def _with_bias(self, number: int, y: Words) -> Words:
        node, scale = self.program.nodes[number], self.places[number].scale
        y += wide_bias(self.weights[f"{node.name}.bias"], node.op, scale, self.f, y.ndim)
        return y

    def _data_product(self, number: int, name: str, mask: Words) -> Words:
        node = self.program.nodes[number]
        if self.ready is None or not isinstance(node.op, HEAVY):
            return product(node.op, self.given[name], mask)
        part = self.ready.take(8 * self.size(number))
        return np.frombuffer(part, "<u8").reshape(self.shape(number)).copy()

    def _answer(self) -> Machine:
        logits, scale = self.values[self.last], self.places[self.last].scale
        mode, bound = self.program.answer, self.bound(self.last)
        if mode == "logits":
            return (yield from answer_logits(self.party, logits, scale))
        logits = yield from self._narrow(self.last)
        if mode == "class":
            near = class_window(bound, self.f)
            return (yield from answer_class(self.party, "answer", logits, near))
        exp = exp_table(bound, self.f)
        return (yield from answer_probabilities(self.party, "answer", logits, exp))
