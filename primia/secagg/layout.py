"""What leaves a site in a round: named vectors side by side, each under masks of its own.

In memory they are one array of 32-bit words. Each vector lives in Z_{2^bits}: with 24 bits the
top byte of a word means nothing, and is not sent (`packing`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from primia.types import Ring

WORD_BITS = (24, 32)
"""Rings that a vector may live in."""


@dataclass(frozen=True)
class Vector:
    """A named vector over Z_{2^bits}; name, length and bits are bound into every mask key."""

    name: str
    length: int
    bits: int = 32

    def __post_init__(self) -> None:
        if self.length < 1 or self.bits not in WORD_BITS:
            raise ValueError(
                f"vector {self.name!r}: length {self.length} (at least 1), bits {self.bits} "
                f"(one of {WORD_BITS})"
            )

    @property
    def wire_bytes(self) -> int:
        """Bytes that it takes packed."""
        return self.length * self.bits // 8


@dataclass(frozen=True)
class Layout:
    """The vectors of a session, in order."""

    vectors: tuple[Vector, ...]

    def __post_init__(self) -> None:
        names = [v.name for v in self.vectors]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"vectors {names}: need at least one, each name once")

    @cached_property
    def length(self) -> int:
        """Words of all vectors together."""
        return sum(v.length for v in self.vectors)

    @cached_property
    def wire_bytes(self) -> int:
        """Bytes of all vectors packed."""
        return sum(v.wire_bytes for v in self.vectors)

    def slice(self, name: str) -> slice:
        """Where vector `name` lies among the words. Raises KeyError for an unknown name."""
        start = 0
        for vector in self.vectors:
            if vector.name == name:
                return slice(start, start + vector.length)
            start += vector.length
        raise KeyError(name)

    def split(self, words: Ring) -> dict[str, Ring]:
        """The vectors in `words` by name, as views. Raises ValueError for another shape."""
        if words.dtype != np.uint32 or words.shape != (self.length,):
            raise ValueError(f"words: got {words.dtype}{words.shape}, need uint32({self.length},)")
        return {v.name: words[self.slice(v.name)] for v in self.vectors}
