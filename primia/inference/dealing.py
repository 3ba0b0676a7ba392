"""The dealer's machine: what one session takes, from the seeds of both parties."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from primia.errors import ConfigError
from primia.inference.bits import Words
from primia.inference.correlations import Dealer
from primia.inference.operations import (
    Affine,
    Conv2d,
    GroupNorm,
    Linear,
    MaxPool2d,
    ReLU,
    Tanh,
)
from primia.inference.ops.answer import class_window, deal_class, deal_probabilities, exp_table
from primia.inference.ops.norm import deal_norm
from primia.inference.ops.opening import deal_truncate
from primia.inference.ops.pool import deal_max_pool
from primia.inference.ops.rectify import Profile, deal_rectify
from primia.inference.ops.segments import deal_segments, tanh_table
from primia.inference.prg import Prg
from primia.inference.program import Node, Program
from primia.inference.ring import encode
from primia.inference.walk import Walk, finished, input_label, input_labels
from primia.inference.weighted import product, weight_mask


@dataclass(frozen=True)
class Noise:
    """Noise of this deviation on every logit, from a seed that only the dealer has.

    It travels inside the correction of the last layer's product, so neither party sees it.
    """

    std: float
    seed: bytes = field(repr=False)

    def draw(self, shape: tuple[int, ...], scale: int) -> Words:
        """The sum of twelve uniform numbers of variance 1/12, about its mean; close to Gaussian.

        It never passes six deviations, so logits with room for it cannot overflow; and integers
        give every machine the same bytes, which a dealt batch is checked by.
        """
        uniform = Prg(self.seed).draw("noise", (12, *shape)) >> np.uint64(48)
        about_mean = uniform.sum(axis=0).view(np.int64) - 12 * (2**16 - 1) // 2  # in 2^-16
        unit = encode(np.array(self.std), scale)
        drawn: Words = ((about_mean * unit) >> 16).view(np.uint64)
        return drawn


def deal(
    program: Program,
    mask_seed: bytes,
    seed0: bytes,
    seed1: bytes,
    films: int = 1,
    *,
    noise: Noise | None = None,
    profile: Profile = "lan",
) -> Iterator[bytes | memoryview]:
    """The model party's corrections for one session, piece by piece in program order.

    mask_seed: the model version's, shared with the model party; seed0, seed1: the session's, of
    data and model party. The same arguments give the same bytes, so a batch can be checked.
    noise: what the dealer adds to the logits; the parties need not know of it.
    profile: the comparison's, the same for all three.
    """
    return _Dealing(program, Dealer(seed0, seed1), Prg(mask_seed), films, noise, profile).run()


class _Dealing(Walk):
    def __init__(
        self,
        program: Program,
        dealer: Dealer,
        mask_prg: Prg,
        films: int,
        noise: Noise | None,
        profile: Profile,
    ) -> None:
        super().__init__(program, films, profile)
        self.dealer = dealer
        self.mask_prg = mask_prg
        self.noise = noise
        if noise and not isinstance(program.nodes[-1].op, Linear):
            raise ConfigError(
                "noise on the answer needs a linear layer as the network's last; "
                "set it to 0 or add one"
            )
        self.inputs: dict[str, Words] = {}
        self.narrowed: set[int] = set()
        self.weight_shapes = program.weight_shapes()

    def run(self) -> Iterator[bytes | memoryview]:
        for number, node in enumerate(self.program.nodes):
            if self.places[number].narrow:
                for source in node.inputs:
                    self._narrow(source)
            self._node(number)
            for used in finished(self.program, number):
                for label in input_labels(used):
                    self.inputs.pop(label, None)
            yield from self.dealer.corrections()
        self._answer()
        yield from self.dealer.corrections()

    def _narrow(self, number: int) -> None:
        if number in self.narrowed or self.places[number].scale == self.f:
            return
        self.narrowed.add(number)
        shift = self.places[number].scale - self.f
        deal_truncate(self.dealer, f"{number}/narrow", self.shape(number), shift)

    def _node(self, number: int) -> None:
        node, place = self.program.nodes[number], self.places[number]
        label = str(number)
        match node.op:
            case ReLU():
                shift = self.scale_in(number) - self.f
                deal_rectify(self.dealer, label, self.size(number), shift, self.comparison(number))
            case MaxPool2d() as op:
                shift = self.scale_in(number) - self.f
                shape, how = self.shape(node.inputs[0]), self.comparison(number, 2)
                deal_max_pool(self.dealer, label, op, shape, shift, how)
            case Tanh():
                table = tanh_table(self.bound(node.inputs[0]), self.scale_in(number), self.f)
                deal_segments(self.dealer, label, self.size(number), table)
            case GroupNorm():
                assert place.norm is not None
                *groups, count = self.group_shape(number, node.op.groups)
                mask = self._weight_mask(node)
                deal_norm(self.dealer, label, tuple(groups), count, place.norm, mask)
            case Conv2d() | Linear() | Affine():
                source = node.inputs[0]
                self._weighted(number, input_label(source, place.narrow), source)
            case _:
                pass

    def _weighted(self, number: int, label: str, source: int) -> None:
        node = self.program.nodes[number]
        if label not in self.inputs:
            self.inputs[label] = self.dealer.data_mask(label, self.shape(source))
        value = product(node.op, self._weight_mask(node), self.inputs[label])
        if self.noise and number == self.last:
            value += self.noise.draw(value.shape, self.places[number].scale)
        self.dealer.give(f"{number}/product", value)

    def _weight_mask(self, node: Node) -> Words:
        name = f"{node.name}.weight"
        return weight_mask(self.mask_prg, name, self.weight_shapes[name])

    def _answer(self) -> None:
        classes = len(self.program.classes)
        if self.program.answer == "logits":
            return
        self._narrow(self.last)
        bound = self.bound(self.last)
        if self.program.answer == "class":
            deal_class(self.dealer, "answer", self.films, classes, class_window(bound, self.f))
        else:
            deal_probabilities(self.dealer, "answer", self.films, classes, exp_table(bound, self.f))
