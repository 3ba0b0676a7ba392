"""Where randomness comes from: at the dealer, at the data party (P0), at the model party (P1).

Each party draws its masks from its own seed, and the dealer, who knows both seeds, draws them too.
What the dealer alone can know (products and bits of masks) it shares: the data party's share is a
stream of its own seed, and the model party's is the rest, its correction. So the data party
receives nothing, and what the model party receives is uniform and depends on no input.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from primia.errors import PeerError
from primia.inference.bits import Words
from primia.inference.prg import Prg, Unsigned

_ALIGN = 8  # every correction starts at a multiple of this, so its words can be used in place
_LARGE = 1 << 20  # bytes; what is smaller travels with its neighbours
_ONES = np.uint64((1 << 64) - 1)
Shape = tuple[int, ...]


class Corrections:
    """The dealer's corrections for one session, read once from front to back."""

    def __init__(self, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
        self._chunks: Iterator[bytes | bytearray | memoryview] = iter(chunks)
        self._rest = memoryview(b"")

    def take(self, size: int) -> memoryview:
        """The next `size` bytes, whatever the chunks; raises PeerError when they end early."""
        if not self._rest and size:
            self._rest = self._next()
        if len(self._rest) < size:
            parts = [self._rest]
            have = len(self._rest)
            while have < size:
                parts.append(self._next())
                have += len(parts[-1])
            self._rest = memoryview(b"".join(parts))
        part, self._rest = self._rest[:size], self._rest[size:]
        return part

    def finish(self) -> None:
        """Raise PeerError unless everything was read."""
        if self._rest or any(len(chunk) for chunk in self._chunks):
            raise PeerError(
                "the dealer's corrections are longer than the program needs; discard this "
                "session's material and stock again"
            )

    def _next(self) -> memoryview:
        for chunk in self._chunks:
            if len(chunk):
                return memoryview(chunk).cast("B")
        raise PeerError(
            "the dealer's corrections end before the program does; discard this session's "
            "material and stock again"
        )


class Party(Protocol):
    """A party's source of masks and shares; `role` is 0 for the data party, 1 for the other."""

    role: int

    def mask(self, label: str, shape: Shape) -> Words:
        """This party's part of a mask, from its own seed."""

    def share(self, label: str, shape: Shape, dtype: npt.DTypeLike = np.uint64) -> Unsigned:
        """This party's additive share of what the dealer gives under that label."""

    def share_bits(self, label: str, shape: Shape) -> Words:
        """As `share`, for planes of bits: the shares add by XOR."""


class DataSource:
    """The data party's: everything is a stream of its seed."""

    role = 0

    def __init__(self, seed: bytes) -> None:
        self._prg = Prg(seed)

    def mask(self, label: str, shape: Shape) -> Words:
        return self._prg.draw(f"mask|{label}", shape)

    def share(self, label: str, shape: Shape, dtype: npt.DTypeLike = np.uint64) -> Unsigned:
        return self._prg.draw(f"share|{label}", shape, dtype)

    def share_bits(self, label: str, shape: Shape) -> Words:
        return self._prg.draw(f"share|{label}", shape)


class ModelSource:
    """The model party's: masks from its seed, shares from the dealer's corrections."""

    role = 1

    def __init__(self, seed: bytes, corrections: Corrections) -> None:
        self._prg = Prg(seed)
        self._corrections = corrections

    def mask(self, label: str, shape: Shape) -> Words:
        return self._prg.draw(f"mask|{label}", shape)

    def share(self, label: str, shape: Shape, dtype: npt.DTypeLike = np.uint64) -> Unsigned:  # noqa: ARG002
        kind = np.dtype(dtype).newbyteorder("<")
        count = math.prod(shape)
        size = count * kind.itemsize
        part = self._corrections.take(size + -size % _ALIGN)
        return np.frombuffer(part, kind, count).reshape(shape)

    def share_bits(self, label: str, shape: Shape) -> Words:
        return self.share(label, shape)


class Dealer:
    """The dealer's view of one session: the masks of both, and the corrections made so far."""

    def __init__(self, seed0: bytes, seed1: bytes) -> None:
        self._data = Prg(seed0)
        self._model = Prg(seed1)
        self._made: list[Unsigned] = []

    def data_mask(self, label: str, shape: Shape) -> Words:
        """A mask that the data party alone has."""
        return self._data.draw(f"mask|{label}", shape)

    def mask(self, label: str, shape: Shape) -> Words:
        """The sum of both parties' masks."""
        total: Words = self._data.draw(f"mask|{label}", shape)
        total += self._model.draw(f"mask|{label}", shape)
        return total

    def mask_bits(self, label: str, shape: Shape) -> Words:
        """The XOR of both parties' masks."""
        total: Words = self._data.draw(f"mask|{label}", shape)
        total ^= self._model.draw(f"mask|{label}", shape)
        return total

    def give(self, label: str, value: Unsigned) -> None:
        """Share an array additively, modulo its type."""
        share = self._data.draw(f"share|{label}", value.shape, value.dtype)
        self._made.append(np.subtract(value, share, out=share))

    def give_kept(self, label: str, value: Unsigned) -> Unsigned:
        """As `give`; returns the data party's share, which is a stream of its seed."""
        share = self._data.draw(f"share|{label}", value.shape, value.dtype)
        self._made.append(value - share)
        return share

    def give_bits(self, label: str, planes: Words) -> None:
        """Share planes of bits by XOR."""
        share = self._data.draw(f"share|{label}", planes.shape)
        self._made.append(np.bitwise_xor(planes, share, out=share))

    def corrections(self) -> Iterator[bytes | memoryview]:
        """What was given since the last call, for the model party.

        Large arrays go as they are: joining them was a fifth of the dealer's time. Small ones, of
        which there are many, go together.
        """
        made, self._made = self._made, []
        small: list[bytes | memoryview] = []
        for array in made:
            data = array.reshape(-1).view(np.uint8).data
            if len(data) >= _LARGE:
                if small:
                    yield b"".join(small)
                    small = []
                yield data
            elif len(data):
                small.append(data)
            if pad := -len(data) % _ALIGN:
                small.append(bytes(pad))
        if small:
            yield b"".join(small)


def constant_one(party: Party) -> np.uint64:
    """The party's share of a plane of ones."""
    return np.uint64(0) if party.role else _ONES
