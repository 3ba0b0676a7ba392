"""May this site work now? Asked before every round, of the disk: people decide while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from worker.approval import Subject, check, standing
from worker.state import WorkerState

log = structlog.get_logger()

POLL_S = 1.0


@dataclass(frozen=True)
class ApprovalGate:
    """The approval of one plan and one cohort."""

    state: WorkerState
    subject: Subject

    def check(self) -> None:
        """Raise NotApproved unless the approval is in force."""
        check(self.state, self.subject)

    @property
    def is_open(self) -> bool:
        """Whether the approval is in force."""
        return not standing(self.state.decisions(), self.subject).missing

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
            if not found.missing:
                log.info("approved", by=list(found.approved_by), plan=self.subject.plan)
                return True
            if decisions[known:] and decisions[-1].approved and not found.approved_by:
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
