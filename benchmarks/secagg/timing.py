"""Repeats in turns, so that every ratio comes from the same seconds of a shared machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of each repeat, in order."""

    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        """The repeat that other programs disturbed least."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def in_turns(
    tasks: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warm: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, Timing]:
    """Run every task `repeats` times, one after the other and from the start again.

    A task that returns a float reports its own seconds (it ran in another process).
    The first `warm` passes do not count. clock: CPU time, which hardly depends on what else the
    machine does; `time.perf_counter` for what several threads or processes do together.
    """
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(warm + repeats):
        for name, task in tasks.items():
            begin = clock()
            own = task()
            seconds = own if isinstance(own, float) else clock() - begin
            if turn >= warm:
                found[name].append(seconds)
    return {name: Timing(tuple(seconds)) for name, seconds in found.items()}
