"""Simulated time, processes that are greenlets, and the trace that a seed always gives again."""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from greenlet import getcurrent, greenlet


class Crash(BaseException):
    """The process is gone; nothing of primia catches this."""


class World:
    """One thread, one heap of events, one seed: whatever happens is decided here.

    injected: faults by kind. findings: what must not have happened; the first one ends the run.
    """

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.now = 0.0
        self.trace: list[str] = []
        self.injected: Counter[str] = Counter()
        self.counted: Counter[str] = Counter()
        self.findings: list[str] = []
        self.hub = getcurrent()
        self._events: list[tuple[float, int, Callable[[], Any]]] = []
        self._order = itertools.count()

    def rng(self, name: str) -> Random:
        """A stream of its own for each purpose, so that one more draw here changes little there."""
        return Random(f"{self.seed}/{name}")

    def at(self, when: float, action: Callable[[], Any]) -> None:
        """Do this at that time; what is due at one time happens in the order it was asked for."""
        heapq.heappush(self._events, (when, next(self._order), action))

    def after(self, seconds: float, action: Callable[[], Any]) -> None:
        """Do this so much later."""
        self.at(self.now + seconds, action)

    def say(self, who: str, what: str) -> None:
        """One line of the trace; no address, no signature, no name drawn outside the seed."""
        self.trace.append(f"{self.now:9.3f} {who:12} {what}")

    def inject(self, kind: str, who: str, what: str = "") -> None:
        """Count a fault and say so."""
        self.injected[kind] += 1
        self.say(who, f"** {kind} {what}".rstrip())

    def find(self, what: str) -> None:
        """Note a breach of the contract."""
        self.say("CONTRACT", what)
        self.findings.append(what)

    def run(self, over: Callable[[], bool], until: float) -> bool:
        """Let events happen; False when time ran out first."""
        while not over() and not self.findings:
            if not self._events or self._events[0][0] > until:
                return False
            self.now, _, action = heapq.heappop(self._events)
            action()
        return True

    @property
    def trace_hash(self) -> str:
        """SHA-256 of the trace."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


class Task(greenlet):
    """A process's only thread. It runs until it blocks; nobody interrupts it in between."""

    def __init__(self, world: World, body: Callable[[], None]) -> None:
        super().__init__(body, world.hub)
        self._world = world
        self._ticket = 0
        self.paused_until = 0.0  # SIGSTOP, SIGCONT

    def block(self, seconds: float) -> bool:
        """Wait to be woken with the current ticket; False when the time is over instead."""
        ticket = self._ticket
        self._world.after(seconds, lambda: self.wake(ticket, False))
        return bool(self._world.hub.switch())

    def ticket(self) -> int:
        """What the next wait is called; whoever wakes an earlier one does nothing."""
        self._ticket += 1
        return self._ticket

    def sleep(self, seconds: float) -> None:
        """Let that time pass."""
        self.ticket()
        self.block(seconds)

    def wake(self, ticket: int, value: bool = True) -> None:
        """Go on, unless it has meanwhile, is gone, or is stopped: then it hears of it later."""
        if self.dead or ticket != self._ticket:
            return
        if self._world.now < self.paused_until:
            self._world.at(self.paused_until, lambda: self.wake(ticket, value))
            return
        self._ticket += 1
        self.switch(value)

    def kill(self) -> None:
        """kill -9, from outside."""
        if not self.dead:
            self._ticket += 1
            self.throw(Crash)


def this_task() -> Task | None:
    """The process that is running, or None while it is the world itself (or the coordinator)."""
    current = getcurrent()
    return current if isinstance(current, Task) else None
