"""What one caller may take of the coordinator: calls at once, calls a second, bytes that flow."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from primia.errors import TooManyCalls

IDLE_S = 30.0
"""A stream without a byte for so long is given up; one that flows may take as long as it needs."""


@dataclass(frozen=True)
class Limits:
    """at_once: calls of one caller that run; rate: calls a second on average; burst: in a row."""

    at_once: int
    rate: float
    burst: int


# A site has one call that waits, one that it makes, and those that a broken link left behind. A
# round without training is a dozen calls.
SITE_LIMITS = Limits(at_once=8, rate=200.0, burst=500)
# A code enrols once.
ENROL_LIMITS = Limits(at_once=4, rate=2.0, burst=20)


@dataclass
class _Caller:
    """A token bucket and a count."""

    tokens: float
    filled_at: float
    running: int = 0


class Gate:
    """Counts the calls of each caller. Callers are known by name, so their number is bounded."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, called: str = "coordinator"
    ) -> None:
        """called: what messages call the server."""
        self._called = called
        self._clock = clock
        self._lock = threading.Lock()
        self._callers: dict[str, _Caller] = defaultdict(lambda: _Caller(float("inf"), clock()))

    @contextmanager
    def passing(self, name: str, limits: Limits) -> Iterator[None]:
        """Count one call while it runs. Raises TooManyCalls, with nothing counted."""
        with self._lock:
            caller = self._callers[name]
            now = self._clock()
            filled = caller.tokens + (now - caller.filled_at) * limits.rate
            caller.tokens, caller.filled_at = min(filled, float(limits.burst)), now
            if caller.running >= limits.at_once:
                raise TooManyCalls(
                    f"{name} has {limits.at_once} calls running, the most that the {self._called} "
                    "takes at once; is the same program running twice? Try again later"
                )
            if caller.tokens < 1:
                raise TooManyCalls(
                    f"{name} makes more than {limits.rate:g} calls a second, the most that the "
                    f"{self._called} takes; try again later"
                )
            caller.tokens -= 1
            caller.running += 1
        try:
            yield
        finally:
            with self._lock:
                caller.running -= 1


class Seldom:
    """Keeps a log from being filled by whoever knocks: at most `most` lines a minute."""

    def __init__(self, most: int = 30, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._minute = clock()
        self._said = self._left_out = 0

    def left_out(self) -> int | None:
        """None when this line is one too many; else how many were left out since the last."""
        with self._lock:
            if self._clock() - self._minute >= 60:
                self._said, self._minute = 0, self._clock()
            if self._said >= self._most:
                self._left_out += 1
                return None
            self._said += 1
            left_out, self._left_out = self._left_out, 0
            return left_out


class IdleWatch:
    """Calls `give_up` once, from a thread of its own, when nobody has called `touch` in time.

    Use it in a `with`. `limit_s` may be set anew while it runs.
    """

    def __init__(self, give_up: Callable[[], object], limit_s: float = IDLE_S) -> None:
        self.limit_s = limit_s
        self.gave_up = False
        self._give_up = give_up
        self._touched = time.monotonic()
        self._ended = threading.Event()

    def touch(self) -> None:
        """Bytes have moved."""
        self._touched = time.monotonic()

    def _watch(self) -> None:
        while True:
            left = self._touched + self.limit_s - time.monotonic()
            if left <= 0:
                self.gave_up = True
                self._give_up()
                return
            # Not all of it at once: the limit may be set anew meanwhile.
            if self._ended.wait(min(left, 1.0)):
                return

    def __enter__(self) -> IdleWatch:
        threading.Thread(target=self._watch, daemon=True, name="idle-watch").start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()


class Rate:
    """Bytes a second of one direction of a link, as the other end has confirmed them."""

    SLOWEST = 16 << 10  # a link slower than this is as good as none
    SMALLEST_PIECE = 16 << 10

    def __init__(self) -> None:
        self.measured: float | None = None

    def note(self, size: int, seconds: float) -> None:
        """`size` bytes have arrived in `seconds`; a few tell nothing of the link."""
        if size >= self.SMALLEST_PIECE:
            self.measured = size / max(seconds, 1e-6)

    def seconds_for(self, size: int) -> float:
        """How long `size` bytes may take, with a reserve of four; the slowest link before any."""
        if self.measured is None:
            return size / self.SLOWEST
        return 4 * size / max(self.measured, self.SLOWEST)

    def piece(self, before: int, most: int) -> int:
        """Size of the next piece of a stream, after one of `before` (0 for the first).

        Small enough that the other end sees a piece every second, where the rate is known; else
        small at first, for a message counts when all of it has arrived.
        """
        wanted = max(self.SMALLEST_PIECE, 2 * before)
        if self.measured is not None:
            wanted = max(self.SMALLEST_PIECE, int(self.measured))
        return min(most, wanted)
