"""The protocol's functions as the services call them; tests put others in their place."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from primia.wire.pieces import Message, Wanted

if TYPE_CHECKING:
    from primia.inference.program import Integers, Program, Weights

Given = dict[str, Any]
"""The masked weights of a model version, by name; int64."""


class Engine(Protocol):
    """`primia.inference`, or what stands for it."""

    def given(self, program: Program, weights: Weights, mask_seed: bytes) -> Given:
        """The masked weights, for every data owner."""

    def deal(
        self, program: Program, mask_seed: bytes, seed0: bytes, seed1: bytes, films: int
    ) -> Iterator[Message]:
        """The model owner's corrections for one session."""

    def data_party(
        self, program: Program, given: Given, seed: bytes, films: Integers
    ) -> Generator[Wanted, bytes, Any]:
        """The data owner's machine."""

    def model_party(
        self, program: Program, weights: Weights, corrections: Iterable[bytes], seed: bytes
    ) -> Generator[Wanted, bytes, None]:
        """The model owner's machine."""
