from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from primia.errors import StateError
from primia.infer.ahead import ahead

LONG_S = 60.0


def test_all_items_come_in_their_order() -> None:
    with ahead(range(100)) as items:
        assert list(items) == list(range(100))


def test_the_next_item_is_made_while_the_last_one_is_in_use() -> None:
    made = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        made.set()
        yield 2

    with ahead(source()) as items:
        assert next(items) == 1
        assert made.wait(LONG_S)
        assert list(items) == [2]


def test_an_error_comes_in_the_place_of_its_item() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise StateError("the disk is damaged")

    with ahead(source()) as items:
        assert next(items) == 1
        with pytest.raises(StateError, match="damaged"):
            next(items)


def test_who_leaves_early_leaves_no_thread_behind_that_takes_more() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for i in range(1000):
            taken.append(i)
            yield i

    with ahead(source()) as items:
        next(items)
    assert len(taken) <= 3
    assert not any(thread.name == "ahead" for thread in threading.enumerate())
