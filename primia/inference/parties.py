"""The two parties' machines and the dealer's, over a whole program.

They say what to send and how much to expect and touch no network, file or clock. The nodes are
worked off in order, by all three alike; a value's masks and streams carry its node's number, so
nothing is used twice within a session, and the seeds serve one session.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import cast

import numpy as np

from primia.errors import ConfigError, DataError
from primia.inference.bits import Words
from primia.inference.correlations import Corrections, DataSource, Dealer, ModelSource, Party
from primia.inference.layout import Place, input_scale, layout
from primia.inference.messages import Prediction, Step, receive, send
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
from primia.inference.ops.answer import (
    MAX_PROBABILITY_CLASSES,
    answer_class,
    answer_logits,
    answer_probabilities,
    class_window,
    deal_class,
    deal_probabilities,
    exp_table,
)
from primia.inference.ops.compare import deal_relu, relu, window
from primia.inference.ops.norm import deal_norm, norm
from primia.inference.ops.opening import deal_truncate, truncate
from primia.inference.ops.pool import average_pool, deal_max_pool, max_pool
from primia.inference.ops.segments import deal_segments, segments, tanh_table
from primia.inference.prg import Prg
from primia.inference.program import Integers, Program, Weights
from primia.inference.weighted import HEAVY, Masked, product, weight_mask, wide_bias

Received = bytes | bytearray | memoryview
Machine = Generator[Step, Received, Prediction | None]


def data_party(
    program: Program,
    given: Masked,
    seed: bytes,
    film: Integers,
    ready: Corrections | None = None,
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
    walk = _PartyWalk(program, DataSource(seed), film.shape[0])
    walk.given, walk.ready = given, ready
    walk.values[0] = film.view(np.uint64).copy()
    answer = yield from walk.run()
    return cast(Prediction, answer)


def model_party(
    program: Program, weights: Weights, corrections: Corrections, seed: bytes, films: int = 1
) -> Generator[Step, Received, None]:
    """The model party's side; it learns nothing.

    weights: as `program.check_weights` demands; corrections: this session's, from the dealer.
    Raises PeerError when a message or the corrections do not fit.
    """
    walk = _PartyWalk(program, ModelSource(seed, corrections), films)
    walk.weights = weights
    walk.values[0] = np.zeros((films, *program.input_shape), np.uint64)
    yield from walk.run()
    corrections.finish()


def prepare_products(
    program: Program, given: Masked, seed: bytes, films: int = 1
) -> Iterator[bytes]:
    """The data party's V r0 of all convolutions and linear layers: its work without a film."""
    source = DataSource(seed)
    masks: dict[int, Words] = {}
    for number, node in enumerate(program.nodes):
        if isinstance(node.op, HEAVY):
            source_node = node.inputs[0]
            if source_node not in masks:
                shape = (films, *program.nodes[source_node].shape)
                masks[source_node] = source.mask(_input_label(source_node), shape)
            v = given[f"{node.name}.weight"]
            yield product(node.op, v, masks[source_node]).tobytes()
        for used in _finished(program, number):
            masks.pop(used, None)


class _Walk:
    """The order of work that all three share."""

    def __init__(self, program: Program, films: int) -> None:
        self.program = program
        self.places: tuple[Place, ...] = layout(program)
        self.films = films
        self.f = program.fraction_bits
        if program.answer == "probabilities" and len(program.classes) > MAX_PROBABILITY_CLASSES:
            raise ConfigError(
                f"probabilities of {len(program.classes)} classes cost too much, the limit is "
                f"{MAX_PROBABILITY_CLASSES}; prepare the model with the class as its answer"
            )

    def shape(self, number: int) -> tuple[int, ...]:
        return (self.films, *self.program.nodes[number].shape)

    def size(self, number: int) -> int:
        return int(np.prod(self.shape(number)))

    def bound(self, number: int) -> float:
        return self.program.nodes[number].bound

    def scale_in(self, number: int) -> int:
        return input_scale(self.program, self.places, number)

    def group_shape(self, number: int, groups: int) -> tuple[int, int, int]:
        return (self.films, groups, self.size(number) // (self.films * groups))

    @property
    def last(self) -> int:
        return len(self.program.nodes) - 1


class _DealerWalk(_Walk):
    def __init__(self, program: Program, dealer: Dealer, mask_prg: Prg, films: int) -> None:
        super().__init__(program, films)
        self.dealer = dealer
        self.mask_prg = mask_prg
        self.inputs: dict[str, Words] = {}
        self.narrowed: set[int] = set()

    def run(self) -> Iterator[bytes]:
        for number, node in enumerate(self.program.nodes):
            if self.places[number].narrow:
                self._narrow(node.inputs[0])
            self._node(number)
            for used in _finished(self.program, number):
                self.inputs.pop(_input_label(used), None)
            yield self.dealer.corrections()
        self._answer()
        yield self.dealer.corrections()

    def _narrow(self, number: int) -> None:
        if number in self.narrowed:
            return
        self.narrowed.add(number)
        shift = self.places[number].scale - self.f
        deal_truncate(self.dealer, f"{number}/narrow", self.shape(number), shift)

    def _node(self, number: int) -> None:
        node, place = self.program.nodes[number], self.places[number]
        label = str(number)
        match node.op:
            case ReLU():
                scale = self.scale_in(number)
                near = window(self.bound(node.inputs[0]), scale)
                deal_relu(self.dealer, label, (self.size(number),), scale - self.f, near)
            case MaxPool2d():
                source = node.inputs[0]
                scale = self.scale_in(number)
                deal_max_pool(
                    self.dealer,
                    label,
                    node.op,
                    self.shape(source),
                    self.bound(source),
                    scale,
                    self.f,
                )
            case Tanh():
                table = tanh_table(self.bound(node.inputs[0]), self.scale_in(number), self.f)
                deal_segments(self.dealer, label, self.size(number), table)
            case GroupNorm():
                assert place.norm is not None
                *groups, count = self.group_shape(number, node.op.groups)
                deal_norm(self.dealer, label, tuple(groups), count, place.norm)
                self._weighted(number, f"{number}/norm", number)
                del self.inputs[f"{number}/norm"]
            case Conv2d() | Linear() | Affine():
                self._weighted(number, _input_label(node.inputs[0]), node.inputs[0])
            case _:
                pass

    def _weighted(self, number: int, label: str, source: int) -> None:
        node = self.program.nodes[number]
        if label not in self.inputs:
            self.inputs[label] = self.dealer.data_mask(label, self.shape(source))
        name = f"{node.name}.weight"
        b = weight_mask(self.mask_prg, name, self.program.weight_shapes()[name])
        self.dealer.give(f"{number}/product", product(node.op, b, self.inputs[label]))

    def _answer(self) -> None:
        classes = len(self.program.classes)
        if self.program.answer == "logits":
            return
        if self.places[self.last].scale > self.f:
            self._narrow(self.last)
        bound = self.bound(self.last)
        if self.program.answer == "class":
            deal_class(self.dealer, "answer", self.films, classes, class_window(bound, self.f))
        else:
            deal_probabilities(self.dealer, "answer", self.films, classes, exp_table(bound, self.f))


def deal(
    program: Program, mask_seed: bytes, seed0: bytes, seed1: bytes, films: int = 1
) -> Iterator[bytes]:
    """The model party's corrections for one session, piece by piece in program order.

    mask_seed: the model version's, shared with the model party; seed0, seed1: the session's, of
    data and model party. The same arguments give the same bytes, so a batch can be checked.
    """
    return _DealerWalk(program, Dealer(seed0, seed1), Prg(mask_seed), films).run()


class _PartyWalk(_Walk):
    given: Masked
    ready: Corrections | None = None
    weights: Weights

    def __init__(self, program: Program, party: Party, films: int) -> None:
        super().__init__(program, films)
        self.party = party
        self.values: dict[int, Words] = {}
        self.narrowed: dict[int, Words] = {}
        self.masked: dict[str, Words] = {}  # r0 at the data party, e + x1 at the model party

    def run(self) -> Machine:
        for number, node in enumerate(self.program.nodes):
            if not node.inputs:
                continue
            first = yield from self._input(number)
            self.values[number] = yield from self._node(number, first)
            for used in _finished(self.program, number):
                self.values.pop(used, None)
                self.narrowed.pop(used, None)
                self.masked.pop(_input_label(used), None)
        answer = yield from self._answer()
        return answer

    def _input(self, number: int) -> Generator[Step, Received, Words]:
        source = self.program.nodes[number].inputs[0]
        if not self.places[number].narrow:
            return self.values[source]
        narrow = yield from self._narrow(source)
        return narrow

    def _narrow(self, number: int) -> Generator[Step, Received, Words]:
        if number not in self.narrowed:
            shift = self.places[number].scale - self.f
            item = (f"{number}/narrow", self.values[number], shift)
            (self.narrowed[number],) = yield from truncate(self.party, [item])
        return self.narrowed[number]

    def _node(self, number: int, x: Words) -> Generator[Step, Received, Words]:
        node, place = self.program.nodes[number], self.places[number]
        label, scale, shape = str(number), self.scale_in(number), self.shape(number)
        bound = self.bound(node.inputs[0])
        out: Words
        match node.op:
            case ReLU():
                near = window(bound, scale)
                out = yield from relu(self.party, label, x.reshape(-1), scale - self.f, near)
            case MaxPool2d():
                out = yield from max_pool(self.party, label, node.op, x, bound, scale, self.f)
            case AvgPool2d():
                out = average_pool(node.op, x, place.factor)
            case Tanh():
                table = tanh_table(bound, scale, self.f)
                out = yield from segments(self.party, label, x.reshape(-1), table)
            case GroupNorm():
                assert place.norm is not None
                groups = x.reshape(self.films * node.op.groups, -1)
                out = yield from norm(self.party, label, groups, place.norm, node.op.eps)
                out = yield from self._weighted(number, f"{number}/norm", out.reshape(shape))
                del self.masked[f"{number}/norm"]
            case Add():
                out = x << np.uint64(place.scale - scale)
                other = node.inputs[1]
                out += self.values[other] << np.uint64(place.scale - self.places[other].scale)
            case Flatten():
                out = x
            case _:
                out = yield from self._weighted(number, _input_label(node.inputs[0]), x)
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
            y += wide_bias(
                self.weights[f"{node.name}.bias"],
                node.op,
                self.places[number].scale,
                self.f,
                y.ndim,
            )
        y += self.party.share(f"{number}/product", y.shape)
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
        if scale > self.f:
            logits = yield from self._narrow(self.last)
        if mode == "class":
            near = class_window(bound, self.f)
            return (yield from answer_class(self.party, "answer", logits, near))
        exp = exp_table(bound, self.f)
        return (yield from answer_probabilities(self.party, "answer", logits, exp))


def _input_label(source: int) -> str:
    """All layers that take a value share one mask of it."""
    return f"{source}/input"


def _finished(program: Program, number: int) -> list[int]:
    """The nodes that no node after this one takes."""
    later = {i for node in program.nodes[number + 1 :] for i in node.inputs}
    now = {*program.nodes[number].inputs, number} - {len(program.nodes) - 1}
    return [i for i in now if i not in later]
