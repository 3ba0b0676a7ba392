"""Refused callers on the audit log and in `why`, in a way that they cannot fill the disk with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from coordinator.reasons import CALL_REFUSED
from coordinator.troubles import TroubleBook
from primia.storage.audit_log import AuditLog

APART_S = 60.0
MOST_CALLERS = 1000  # remembered at a time


class Refusals:
    """Writes at most one line a minute for each caller and reason, with how many it left out.

    clock: monotonic, in seconds.
    """

    def __init__(
        self,
        audit: AuditLog,
        troubles: TroubleBook,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._audit, self._troubles = audit, troubles
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[float, int]] = {}  # last line, refusals since

    def note(self, caller: str, reason: str) -> None:
        """One refusal; durable on return if it is the first in a minute."""
        with self._lock:
            now = self._clock()
            who = caller, reason
            last, left_out = self._known.get(who, (-APART_S, 0))
            if now - last < APART_S:
                self._known[who] = (last, left_out + 1)
                return
            if len(self._known) >= MOST_CALLERS:
                self._known = {c: k for c, k in self._known.items() if now - k[0] < APART_S}
            if len(self._known) >= MOST_CALLERS:
                return  # so many at a time are one attack; the log has a thousand of its lines
            self._known[who] = (now, 0)
            self._audit.append("call_refused", caller=caller, reason=reason, left_out=left_out)
            self._troubles.note(CALL_REFUSED, caller, reason, times=1 + left_out)
