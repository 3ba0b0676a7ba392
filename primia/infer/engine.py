"""The protocol's functions as the services call them; tests put others in their place."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, Protocol

from primia.inference.dealing import Noise
from primia.inference.messages import Prediction
from primia.inference.program import Integers, Program, Weights
from primia.wire.inference_handler import Profile
from primia.wire.pieces import Message, Wanted

Given = Mapping[str, Any]
"""The masked weights of a model version, by name; 64-bit words."""


class Engine(Protocol):
    """`primia.inference`, or what stands for it."""

    def given(self, program: Program, weights: Weights, mask_seed: bytes) -> dict[str, Any]:
        """The masked weights, for every data owner."""

    def products(self, program: Program, given: Given, seed: bytes, films: int) -> Iterator[bytes]:
        """The data owner's work that needs no film; `data_party` takes it as `ready`."""

    def deal(
        self,
        program: Program,
        mask_seed: bytes,
        seed0: bytes,
        seed1: bytes,
        films: int,
        noise: Noise | None,
        profile: Profile,
    ) -> Iterator[Message]:
        """The model owner's corrections for one session."""

    def data_party(
        self,
        program: Program,
        given: Given,
        seed: bytes,
        films: Integers,
        ready: Iterable[bytes] | None,
        profile: Profile,
    ) -> Generator[Wanted, bytes, Prediction]:
        """The data owner's machine; with `ready`, `given` need not hold the heavy layers."""

    def model_party(
        self,
        program: Program,
        weights: Weights,
        corrections: Iterable[bytes],
        seed: bytes,
        films: int,
        profile: Profile,
    ) -> Generator[Wanted, bytes, None]:
        """The model owner's machine."""


class _Real:
    """`primia.inference`, loaded when it is needed."""

    def given(self, program: Program, weights: Weights, mask_seed: bytes) -> dict[str, Any]:
        from primia.inference.weighted import mask_weights

        return dict(mask_weights(program, weights, mask_seed))

    def products(self, program: Program, given: Given, seed: bytes, films: int) -> Iterator[bytes]:
        from primia.inference.parties import prepare_products

        return prepare_products(program, given, seed, films)

    def deal(
        self,
        program: Program,
        mask_seed: bytes,
        seed0: bytes,
        seed1: bytes,
        films: int,
        noise: Noise | None,
        profile: Profile,
    ) -> Iterator[Message]:
        from primia.inference.dealing import deal

        return deal(program, mask_seed, seed0, seed1, films, noise=noise, profile=profile)

    def data_party(
        self,
        program: Program,
        given: Given,
        seed: bytes,
        films: Integers,
        ready: Iterable[bytes] | None,
        profile: Profile,
    ) -> Generator[Wanted, bytes, Prediction]:
        from primia.inference.correlations import Corrections
        from primia.inference.parties import data_party

        done = None if ready is None else Corrections(ready)
        return data_party(program, given, seed, films, done, profile=profile)

    def model_party(
        self,
        program: Program,
        weights: Weights,
        corrections: Iterable[bytes],
        seed: bytes,
        films: int,
        profile: Profile,
    ) -> Generator[Wanted, bytes, None]:
        from primia.inference.correlations import Corrections
        from primia.inference.parties import model_party

        return model_party(program, weights, Corrections(corrections), seed, films, profile=profile)


REAL: Engine = _Real()
