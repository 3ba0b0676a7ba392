"""What the two machines say: steps for their driver, and the answer at the end."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from primia.errors import PeerError

Unsigned = npt.NDArray[Any]


@dataclass(frozen=True)
class Step:
    """Send these bytes to the other party, if any, then resume me with `expect` bytes of it.

    With expect 0, resume with b"" at once. Both parties take the steps of one program in one
    order, so the n-th message of one is what the other's machine asks for as its n-th.
    """

    send: bytes | memoryview | None
    expect: int


Steps = Generator[Step, "bytes | bytearray | memoryview", None]


@dataclass(frozen=True)
class Prediction:
    """What the data party learns of its films.

    values: (films, classes): 1 for the class and 0 otherwise ("class"; the first of equal logits),
    multiples of 0.05 ("probabilities"), or real logits ("logits").
    """

    mode: str
    values: npt.NDArray[np.float64]

    @property
    def classes(self) -> tuple[int, ...]:
        """The likeliest class of each film."""
        return tuple(int(i) for i in self.values.argmax(axis=1))


def exchange(
    mine: Sequence[Unsigned],
) -> Generator[Step, bytes | bytearray | memoryview, list[Unsigned]]:
    """Send these arrays in one message; the other party's, of the same shapes and types."""
    message = _joined(mine)
    received = yield Step(message, message.nbytes)
    return _split(received, mine)


def send(mine: Unsigned) -> Steps:
    """Send one array; the other party sends nothing."""
    received = yield Step(_joined([mine]), 0)
    if len(received):
        raise PeerError(f"{len(received)} bytes came where none were due; {_REMEDY}")


def receive(
    like: Unsigned,
) -> Generator[Step, bytes | bytearray | memoryview, Unsigned]:
    """The array, shaped and typed as `like`, that the other party sends."""
    received = yield Step(None, like.nbytes)
    return _split(received, [like])[0]


_REMEDY = "both sides must run the same release and program; ask again"


def _joined(arrays: Sequence[Unsigned]) -> memoryview:
    if len(arrays) == 1:
        return np.ascontiguousarray(arrays[0]).reshape(-1).view(np.uint8).data
    return np.concatenate([np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in arrays]).data


def _split(received: bytes | bytearray | memoryview, likes: Sequence[Unsigned]) -> list[Unsigned]:
    due = sum(a.nbytes for a in likes)
    if len(received) != due:
        raise PeerError(f"a message of {len(received)} bytes came, {due} were due; {_REMEDY}")
    found: list[Unsigned] = []
    start = 0
    for a in likes:
        part = np.frombuffer(received, a.dtype, a.size, start)
        found.append(part.reshape(a.shape))
        start += a.nbytes
    return found
