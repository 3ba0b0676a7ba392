"""What a check found, and how a check is made: within its time, and whatever the others found."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from primia.errors import PrimiaError

T = TypeVar("T")

LIMIT_S = 15.0
TOTAL_S = 60.0


class State(StrEnum):
    """What came of a check."""

    WELL = "well"
    LOOK = "look"  # this site can take part; a person should know
    MEND = "mend"
    OPEN = "open"  # not checked


@dataclass(frozen=True)
class Finding:
    """One check. todo: what to do, in a few words; text: the fact, or cause and remedy.

    because: the check whose failure left this one open, if that was the reason.
    """

    name: str
    state: State
    text: str
    todo: str
    seconds: float = 0.0
    because: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class Seen(Generic[T]):
    """What a check gives to later ones, and what it says; concern: what a person should know."""

    value: T
    says: str
    concern: str = ""


class Visit:
    """Goes from check to check; `findings` is what it saw.

    slow: whether a check was given up, whose thread may still run.
    """

    def __init__(self, total_s: float = TOTAL_S) -> None:
        self.findings: list[Finding] = []
        self.slow = False
        self._until = time.monotonic() + total_s

    def look(
        self,
        name: str,
        todo: str,
        check: Callable[[], Seen[T]],
        *,
        needs: Sequence[str] = (),
        limit_s: float = LIMIT_S,
        unless_slow: str = "",
    ) -> T | None:
        """Make one check in a thread of its own; its value, or None when there is none.

        needs: checks without whose good end this one means nothing. unless_slow: what to do when
        it takes too long, where that is no fault of this site.
        """
        broken = next((n for n in needs if not self.good(n)), None)
        left = self._until - time.monotonic()
        if broken is not None or left <= 0:
            text = "" if broken is not None else "the time for all checks was over; run it again"
            self._add(name, State.OPEN, text, todo, 0.0, self._root(broken) if broken else "")
            return None
        began = time.monotonic()
        limit_s = min(limit_s, left)
        outcome = _within(limit_s, check)
        took = time.monotonic() - began
        if outcome is None:
            self.slow = True
            state = State.OPEN if unless_slow else State.MEND
            remedy = unless_slow or "look at what holds it up, and run it again"
            text = f"it took longer than {limit_s:.0f} s and was given up; {remedy}"
            self._add(name, state, text, todo, took)
            return None
        if isinstance(outcome, Exception):
            self._add(name, State.MEND, _explained(outcome), todo, took)
            return None
        state = State.LOOK if outcome.concern else State.WELL
        self._add(name, state, outcome.concern or outcome.says, todo, took)
        return outcome.value

    def good(self, name: str) -> bool:
        """Whether a check was made and nothing has to be mended."""
        return any(f.name == name and f.state in (State.WELL, State.LOOK) for f in self.findings)

    def given_up(self, name: str) -> bool:
        """Whether a check was left open for want of time."""
        return any(
            f.name == name and f.state is State.OPEN and not f.because for f in self.findings
        )

    def _root(self, name: str) -> str:
        """The first check that failed on the way to `name`."""
        because = next((f.because for f in self.findings if f.name == name), "")
        return because or name

    def _add(
        self, name: str, state: State, text: str, todo: str, took: float, because: str = ""
    ) -> None:
        self.findings.append(Finding(name, state, text, todo, took, because))


def _within(limit_s: float, check: Callable[[], Seen[T]]) -> Seen[T] | Exception | None:
    """What `check` returned or raised; None when it takes longer. Its thread is left alone then."""
    outcome: list[Seen[T] | Exception] = []

    def work() -> None:
        try:
            outcome.append(check())
        except Exception as err:
            outcome.append(err)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit_s)
    return outcome[0] if outcome else None


def _explained(err: Exception) -> str:
    """The text of an error; of one that nobody foresaw, enough to report it."""
    if isinstance(err, PrimiaError):
        return "; ".join(str(err).splitlines())
    if isinstance(err, OSError) and err.strerror:
        where = f"{err.filename}: " if err.filename else ""
        return f"{where}{err.strerror}; check the path, its owner and its mode"
    return f"primia itself failed ({type(err).__name__}: {err}); report this to its developers"
