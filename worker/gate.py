"""May this site work now? Asked before every round, of the disk: people decide while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from worker.approval import NotApproved, Subject, check, standing
from worker.limits import check_hours, in_hours, next_start
from worker.state import WorkerState

log = structlog.get_logger()

POLL_S = 1.0


@dataclass(frozen=True)
class ApprovalGate:
    """The approval of one plan and one cohort, which holds no withdrawn patient.

    withdrawals: how many patients were withdrawn up to now; more than `withdrawn`, how many were
    before the films were read, means that they have to be read again.
    """

    state: WorkerState
    subject: Subject
    withdrawals: Callable[[], int]
    hours: str | None = None  # when training may run, local time
    now: Callable[[], datetime] = datetime.now
    withdrawn: int = 0

    def check(self) -> None:
        """Raise NotApproved unless the approval is in force, for these very films."""
        if self._outdated:
            raise NotApproved("a patient was withdrawn since the films were read")
        check(self.state, self.subject)

    @property
    def is_open(self) -> bool:
        """Whether the approval is in force."""
        return not (self._outdated or standing(self.state.decisions(), self.subject).missing)

    @property
    def in_hours(self) -> bool:
        """Whether training may run at this time of the day."""
        return in_hours(self.hours, self.now())

    def check_hours(self) -> None:
        """Raise PolicyRefused outside the hours of the site file."""
        check_hours(self.hours, self.now())

    @property
    def _outdated(self) -> bool:
        return self.withdrawals() != self.withdrawn

    def wait(self, stop: threading.Event, meanwhile: Callable[[], None] = lambda: None) -> bool:
        """Wait until the approval is in force, saying once what is missing; whether it is.

        False when stopped, and when people approved something else than was loaded: then site file,
        plan and films have to be read again. meanwhile: done at each look, for this may take weeks.
        """
        said = ""
        known = len(self.state.decisions())
        while not stop.is_set():
            decisions = self.state.decisions()
            found = standing(decisions, self.subject)
            if not (found.missing or self._outdated or self.in_hours):
                self._wait_for_hours(stop, meanwhile)
                continue
            if not (found.missing or self._outdated):
                log.info("approved", by=list(found.approved_by), plan=self.subject.plan)
                return True
            if decisions[known:] and decisions[-1].approved and not found.approved_by:
                return False
            if self._outdated:
                return False
            if found.why != said:
                log.warning(
                    "waiting_for_approval",
                    why=found.why,
                    plan=self.subject.plan,
                    cohort=self.subject.cohort,
                )
                said = found.why
            meanwhile()
            stop.wait(POLL_S)
        return False

    def _wait_for_hours(self, stop: threading.Event, meanwhile: Callable[[], None]) -> None:
        assert self.hours is not None
        back = next_start(self.hours, self.now())
        log.info("outside_hours", hours=self.hours, back=back.isoformat(timespec="minutes"))
        while not (stop.is_set() or self._outdated or self.in_hours):
            if standing(self.state.decisions(), self.subject).missing:
                return
            meanwhile()
            stop.wait(POLL_S)
