"""Work a step ahead: the next piece is made by a thread of its own while the last one travels."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

_LOOK_S = 0.2  # how often a thread that waits for room looks whether anybody still wants it


@contextmanager
def ahead(items: Iterable[Item]) -> Iterator[Iterator[Item]]:
    """The same items in the same order, one made while the one before is worked on.

    At most three exist at once: in use, waiting, being made. What `items` raises comes where its
    item would have come. On leaving, the thread has ended; it takes nothing further.
    """
    ready: queue.Queue[tuple[Item] | BaseException | None] = queue.Queue(1)
    left = threading.Event()

    def hand_over(thing: tuple[Item] | BaseException | None) -> bool:
        while not left.is_set():
            try:
                ready.put(thing, timeout=_LOOK_S)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not hand_over((item,)):
                    return
            hand_over(None)
        except BaseException as err:
            hand_over(err)

    def taken() -> Iterator[Item]:
        while (thing := ready.get()) is not None:
            if isinstance(thing, BaseException):
                raise thing
            yield thing[0]

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        left.set()
        thread.join()
