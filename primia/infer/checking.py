"""How much of a batch is opened and checked, and the check itself.

One in a hundred sessions, rounded up, of batches of 20 or more; below that none, for it would be a
large part of the batch. Which ones is the data owner's choice, made after the dealer is done. It
shows its seeds of these; the model owner, who alone knows the mask of the weights, deals them again
and compares every byte. Opened sessions are never used.
"""

from __future__ import annotations

from collections.abc import Iterable

SMALLEST = 20


def opened_of(dealt: int) -> int:
    """How many of a batch of `dealt` sessions are opened."""
    return 0 if dealt < SMALLEST else -(-dealt // 100)


def dealt_for(wanted: int) -> int:
    """How many have to be dealt so that `wanted` are left."""
    dealt = wanted
    while dealt - opened_of(dealt) < wanted:
        dealt += 1
    return dealt


def same(stored: Iterable[bytes], dealt: Iterable[bytes | bytearray | memoryview]) -> bool:
    """Whether two streams hold the same bytes, however they are cut."""
    mine, theirs = _Reader(stored), _Reader(dealt)
    while True:
        size = min(mine.ready(), theirs.ready())
        if size == 0:
            return mine.ready() == theirs.ready()
        if mine.take(size) != theirs.take(size):
            return False


class _Reader:
    def __init__(self, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def ready(self) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk).cast("B")
        return len(self._rest)

    def take(self, size: int) -> memoryview:
        part, self._rest = self._rest[:size], self._rest[size:]
        return part
