"""The order of work that the dealer and both parties share, and what a node is called."""

from __future__ import annotations

import math

from primia.errors import ConfigError
from primia.inference.layout import Place, input_scale, layout
from primia.inference.ops.answer import MAX_PROBABILITY_CLASSES
from primia.inference.ops.rectify import Comparison, Profile, comparison
from primia.inference.program import Program


class Walk:
    """A program and its public numbers, for so many films at once."""

    def __init__(self, program: Program, films: int, profile: Profile) -> None:
        self.program = program
        self.profile = profile
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
        return math.prod(self.shape(number))

    def bound(self, number: int) -> float:
        return self.program.nodes[number].bound

    def scale_in(self, number: int, position: int = 0) -> int:
        return input_scale(self.program, self.places, number, position)

    def group_shape(self, number: int, groups: int) -> tuple[int, int, int]:
        return (self.films, groups, self.size(number) // (self.films * groups))

    @property
    def last(self) -> int:
        return len(self.program.nodes) - 1

    def comparison(self, number: int, times: int = 1) -> Comparison:
        """For `times` the values that a node takes."""
        bound = times * self.bound(self.program.nodes[number].inputs[0])
        return comparison(bound, self.scale_in(number), self.profile)


def input_label(source: int, narrow: bool) -> str:
    """All layers that take a value as wide as each other share one mask of it.

    Truncated first (`narrow`) it is another value, and has a mask of its own.
    """
    return f"{source}/narrow-input" if narrow else f"{source}/input"


def input_labels(source: int) -> tuple[str, str]:
    """Both that a value may have."""
    return input_label(source, narrow=False), input_label(source, narrow=True)


def finished(program: Program, number: int) -> list[int]:
    """The nodes that no node after this one takes."""
    later = {i for node in program.nodes[number + 1 :] for i in node.inputs}
    now = {*program.nodes[number].inputs, number} - {len(program.nodes) - 1}
    return [i for i in now if i not in later]
