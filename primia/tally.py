"""What this process has done since it started, in numbers, for the metrics alone.

Nothing decides by these; a hook is one line where the thing happens.
"""

from __future__ import annotations

import threading
from collections import Counter

_lock = threading.Lock()
_counts: Counter[str] = Counter()
_values: dict[str, float] = {}
_texts: dict[str, str] = {}


def add(name: str, amount: int = 1) -> None:
    """Count something."""
    with _lock:
        _counts[name] += amount


def put(name: str, value: float) -> None:
    """Remember the newest value of something."""
    with _lock:
        _values[name] = value


def say(name: str, text: str) -> None:
    """Remember a word of a fixed set, such as a phase."""
    with _lock:
        _texts[name] = text


def count(name: str) -> int:
    """What `add` counted."""
    with _lock:
        return _counts[name]


def value(name: str) -> float | None:
    """What `put` remembered."""
    with _lock:
        return _values.get(name)


def text(name: str) -> str:
    """What `say` remembered, or nothing."""
    with _lock:
        return _texts.get(name, "")
