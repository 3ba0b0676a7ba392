"""What the worker's loop stands on: its calls to the coordinator, when to stop, how to wait.

The daemon fills these with the real ones; the simulation with its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

import structlog

from primia import tally
from primia.protocol.messages import Answer
from primia.types import Digest
from primia.wire.handler import Attendance, StudyBundle, UploadKey
from worker.heads import HeadsLink

log = structlog.get_logger()

SHORTEST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


class Stopped(Exception):
    """SIGTERM or SIGINT came while local work was going on."""


class Stop(Protocol):
    """When to stop, and how to wait until then: a `threading.Event`."""

    def is_set(self) -> bool:
        """Whether it is time."""

    def wait(self, timeout: float) -> bool:
        """Wait so many seconds at most; returns whether it is time."""


class Gate(Protocol):
    """Whether this site may work now; the daemon's is `worker.gate.ApprovalGate`."""

    @property
    def is_open(self) -> bool:
        """Whether it may."""

    def check(self) -> None:
        """Raise PolicyRefused unless it may."""

    @property
    def in_hours(self) -> bool:
        """Whether training may run at this time of the day."""

    def check_hours(self) -> None:
        """Raise PolicyRefused unless it may."""


class Link(HeadsLink, Protocol):
    """A site's calls to the coordinator; the daemon's are `primia.wire.client.FederationClient`.

    Every call raises Unreachable, or what the coordinator answered.
    """

    def get_study(self) -> StudyBundle:
        """The plan and the certificates of the roster, unchecked."""

    def attend(self, after: int) -> Attendance:
        """Wait for something newer than serial `after`; it may be nothing."""

    def answer(self, answer: Answer) -> None:
        """Send one answer; on return the coordinator has it."""

    def fetch_model(self, digest: Digest, *, max_bytes: int) -> bytes:
        """The model with this digest, checked."""

    def upload(self, key: UploadKey, data: bytes | bytearray | memoryview) -> None:
        """Send a masked vector; on return the coordinator has it, once."""


Jitter = Callable[[float, float], float]
"""(least, most) → a random number in between."""


class Pause:
    """Back-off with jitter, so that sites cut off together do not come back together.

    Each pause is at least half of what it may be: a coordinator away for a minute costs ten lines.
    """

    def __init__(self, jitter: Jitter = random.uniform) -> None:
        self._jitter = jitter
        self._longest_s = SHORTEST_PAUSE_S

    def reset(self) -> None:
        """The last call went well."""
        self._longest_s = SHORTEST_PAUSE_S

    def wait(self, stop: Stop, why: str) -> None:
        """Say why and when the next try is, then wait or be stopped."""
        seconds = self._jitter(self._longest_s / 2, self._longest_s)
        self._longest_s = min(LONGEST_PAUSE_S, 2 * self._longest_s)
        tally.add("retries")
        log.warning("coordinator_unreachable", why=why, next_try_s=round(seconds, 1))
        stop.wait(seconds)
