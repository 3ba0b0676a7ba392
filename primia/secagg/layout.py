"""One vector for all that leaves a site: named segments side by side.

Update, weight and metrics travel in a single masked vector, so that nothing about a site goes
in the clear beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from primia.types import Ring


@dataclass(frozen=True)
class Layout:
    """Contiguous segments, in order: (name, number of coordinates)."""

    segments: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.segments]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"segments {names}: need at least one, each name once")
        for name, length in self.segments:
            if length < 1:
                raise ValueError(f"segment {name!r}: got length {length}, need at least 1")

    @property
    def length(self) -> int:
        """Number of coordinates of the whole vector."""
        return sum(length for _, length in self.segments)

    def slice(self, name: str) -> slice:
        """Where segment `name` lies. Raises KeyError for an unknown name."""
        start = 0
        for segment, length in self.segments:
            if segment == name:
                return slice(start, start + length)
            start += length
        raise KeyError(name)

    def concatenate(self, parts: Mapping[str, Ring]) -> Ring:
        """One vector from exactly the named parts. Raises ValueError for a misfit."""
        if set(parts) != {name for name, _ in self.segments}:
            raise ValueError(f"parts {sorted(parts)} are not the segments of this layout")
        whole = np.empty(self.length, np.uint32)
        for name, length in self.segments:
            part = parts[name]
            if part.dtype != np.uint32 or part.shape != (length,):
                raise ValueError(f"{name}: got {part.dtype}{part.shape}, need uint32({length},)")
            whole[self.slice(name)] = part
        return whole

    def split(self, vector: Ring) -> dict[str, Ring]:
        """The parts of `vector` by name, as views. Raises ValueError for another shape."""
        if vector.dtype != np.uint32 or vector.shape != (self.length,):
            raise ValueError(
                f"vector: got {vector.dtype}{vector.shape}, need uint32({self.length},)"
            )
        return {name: vector[self.slice(name)] for name, _ in self.segments}
