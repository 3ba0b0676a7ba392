"""Caps of the site file on when this machine works, and on how much memory the work may take."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, time, timedelta

from primia.errors import PolicyRefused


def in_hours(hours: str | None, now: datetime) -> bool:
    """Whether `now`, local time, lies in hours such as 19:00-06:00; None: at any time."""
    if hours is None:
        return True
    start, end = _parsed(hours)
    clock = now.time()
    return start <= clock < end if start < end else clock >= start or clock < end


def next_start(hours: str, now: datetime) -> datetime:
    """When these hours begin next after `now`, both local time."""
    start, _ = _parsed(hours)
    today = now.replace(hour=start.hour, minute=start.minute, second=0, microsecond=0)
    return today if today > now else today + timedelta(days=1)


def check_hours(hours: str | None, now: datetime) -> None:
    """Raise PolicyRefused outside the hours, saying when this site is back."""
    if hours is not None and not in_hours(hours, now):
        back = next_start(hours, now)
        raise PolicyRefused(
            f"this site works from {hours.replace('-', ' to ')} only; it is back at "
            f"{back:%H:%M} local time"
        )


def _parsed(hours: str) -> tuple[time, time]:
    start, _, end = hours.partition("-")
    return time.fromisoformat(start), time.fromisoformat(end)


def hold_memory(gib: float | None) -> None:
    """Let this process, and each that it starts, have no more host memory of its own than that.

    The kernel enforces it (RLIMIT_DATA: private writable memory, not the code of libraries), and
    the physical batch is made to fit. Memory of a GPU is not counted.
    """
    if gib is not None:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = int(gib * 2**30)
        if most != resource.RLIM_INFINITY:
            wanted = min(wanted, most)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))


@contextmanager
def memory_told() -> Iterator[None]:
    """Turn an allocation that failed into PolicyRefused: the round is declined, no more."""
    try:
        yield
    except (MemoryError, RuntimeError) as err:
        words = str(err).lower()
        if isinstance(err, MemoryError) or "allocate memory" in words or "out of memory" in words:
            raise PolicyRefused(
                "local training needs more memory than this site allows or has; its operator may "
                "raise caps.max_memory_gib or free memory"
            ) from err
        raise
