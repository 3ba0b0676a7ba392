"""Attacks in tests run on one thread, whatever the machine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from primia.audit.threads import one_thread


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield
