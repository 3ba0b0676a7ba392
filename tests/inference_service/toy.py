"""A protocol that is as simple as can be, in the place of the real one.

The pads of both directions come from the data owner's seed, and the model owner has them as
corrections. So an answer is right only where both hold the same session, bound to the same things.
The model is one number that is added to each film's sum.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from primia.inference.operations import Flatten, Input, Linear
from primia.inference.program import Node, Program

SIDE = 16
STEPS = 3


@dataclass(frozen=True)
class Step:
    send: bytes | None
    expect: int


def program(*, side: int = SIDE, version: str | None = None, answer: Any = "class") -> Program:
    return Program(
        nodes=(
            Node("film", Input(1, side, side), (), (1, side, side), 4.0),
            Node("flat", Flatten(), (0,), (side * side,), 4.0),
            Node("head", Linear(2), (1,), (2,), 1000.0),
        ),
        classes=("well", "ill"),
        answer=answer,
        normalisation="fixed",
        mean=(0.0,),
        std=(1.0,),
        model_version=version or secrets.token_hex(16),
    )


def weights(bias: int = 7, side: int = SIDE) -> dict[str, Any]:
    return {
        "head.weight": np.zeros((2, side * side), np.int64),
        "head.bias": np.array([bias, 0], np.int64),
    }


def stretch(seed: bytes, label: str, size: int) -> bytes:
    return hashlib.shake_256(seed + label.encode()).digest(size)


def xor(a: bytes, b: bytes) -> bytes:
    return (np.frombuffer(a, np.uint8) ^ np.frombuffer(b, np.uint8)).tobytes()


class Toy:
    """The engine. before_step: called in both machines with (party, step)."""

    def __init__(self, before_step: Callable[[str, int], None] = lambda _p, _s: None) -> None:
        self.before_step = before_step
        self.corrupt = False

    def given(self, program: Program, weights: Any, mask_seed: bytes) -> dict[str, Any]:
        shape = weights["head.weight"].shape
        mask = np.frombuffer(stretch(mask_seed, "mask", 8 * int(np.prod(shape))), np.uint64)
        return {"head.weight": weights["head.weight"].view(np.uint64) - mask.reshape(shape)}

    def products(self, program: Program, given: Any, seed: bytes, films: int) -> Iterator[bytes]:
        yield stretch(seed, "products", 100)

    def deal(
        self,
        program: Program,
        mask_seed: bytes,
        seed0: bytes,
        seed1: bytes,
        films: int,
        noise: Any,
        profile: Any,
    ) -> Iterator[bytes]:
        size = films * int(np.prod(program.input_shape)) * 8
        for step in range(STEPS):
            pad = stretch(seed0, f"up{step}", size)
            yield xor(pad, stretch(seed1, f"up{step}", size))
            down = stretch(seed0, f"down{step}", 8 * films)
            if self.corrupt:
                down = xor(down, b"\1" + bytes(len(down) - 1))
            yield xor(down, stretch(seed1, f"down{step}", 8 * films))

    def data_party(
        self, program: Program, given: Any, seed: bytes, films: Any, ready: Any, profile: Any
    ) -> Generator[Step, bytes, Any]:
        assert (ready is None) == ("head.weight" in given)
        assert ready is None or b"".join(ready) == stretch(seed, "products", 100)
        raw = films.tobytes()
        found = b""
        for step in range(STEPS):
            self.before_step("data", step)
            sealed = yield Step(xor(raw, stretch(seed, f"up{step}", len(raw))), 8 * len(films))
            found = xor(sealed, stretch(seed, f"down{step}", 8 * len(films)))
        return np.frombuffer(found, np.int64)

    def model_party(
        self,
        program: Program,
        weights: Any,
        corrections: Iterable[bytes],
        seed: bytes,
        films: int,
        profile: Any,
    ) -> Generator[Step, bytes, None]:
        source = iter(corrections)
        for step in range(STEPS):
            self.before_step("model", step)
            first = next(source)
            pad = xor(first, stretch(seed, f"up{step}", len(first)))
            raw = yield Step(None, len(pad))
            count = len(pad) // (8 * int(np.prod(program.input_shape)))
            seen = np.frombuffer(xor(raw, pad), np.int64).reshape(count, -1)
            answer = (seen.sum(axis=1) + weights["head.bias"][0]).tobytes()
            second = next(source)
            down = xor(second, stretch(seed, f"down{step}", len(second)))
            yield Step(xor(answer, down), 0)


def films(count: int = 1, side: int = SIDE) -> Any:
    return np.random.default_rng(0).integers(0, 1 << 16, (count, 1, side, side), np.int64)


def expected(films: Any, bias: int = 7) -> list[int]:
    return [int(v) + bias for v in films.reshape(len(films), -1).sum(axis=1)]
