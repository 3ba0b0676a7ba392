"""Ledger, audit log and database: each by itself, and whether they are of one age."""

from __future__ import annotations

import time
from pathlib import Path

from primia.config.site import SiteConfig
from primia.errors import StateError
from primia.storage.audit_log import FILE, AuditLog
from primia.storage.disk import Disk
from primia.storage.snapshot import Snapshot
from primia.types import Digest
from worker.books import open_ledger
from worker.doctor.visit import Seen
from worker.home import SiteIdentity
from worker.state import DOMINATED, WorkerState
from worker.work import check_books

_TRIES = 3


def ledger(folder: Path, config: SiteConfig, disk: Disk) -> Seen[None]:
    """Every row of the privacy ledger against its chain. Raises StateError."""
    with open_ledger(folder, config, disk) as found:
        rows = found.verify().rows
    return Seen(None, f"{rows} rows, the chain holds")


def audit_log(folder: Path, disk: Disk) -> Seen[None]:
    """Every line of the audit log against its chain. Raises StateError."""
    lines = AuditLog(folder / FILE, disk=disk).verify().lines
    if not lines:
        raise StateError(
            f"{folder / FILE} is missing, though this site is enrolled; restore the newest copy of "
            "the whole folder"
        )
    return Seen(None, f"{lines} lines, the chain holds")


def of_one_age(folder: Path, config: SiteConfig, identity: SiteIdentity) -> Seen[None]:
    """No book is an older copy beside the others. Raises StateError.

    The daemon may write between two looks, so what does not fit is looked at again.
    """
    for number in range(_TRIES):
        disk = Snapshot()
        state = WorkerState(folder, disk=disk)
        try:
            with open_ledger(folder, config, disk) as found:
                check_books(found, state, Digest(state.noted("plan") or ""), identity.site)
            break
        except StateError:
            if number == _TRIES - 1:
                raise
            time.sleep(0.5)
        finally:
            state.close()
    return Seen(None, "ledger, database and audit log agree")


def sums(folder: Path, disk: Disk) -> Seen[None]:
    """Whether one patient has outweighed all others in a step; see `worker.learning`."""
    state = WorkerState(folder, disk=disk)
    try:
        dominated = state.noted(DOMINATED) is not None
    finally:
        state.close()
    concern = (
        "in a step of this study one patient's gradient was longer than all others' together. ε "
        "holds, for the noise covers it. A mislabelled or odd film does this, and so does a model "
        "made to single one out: check the labels, and ask the lead what the rounds looked like. "
        "For this hospital's eyes alone"
    )
    return Seen(None, "no patient outweighed the others in a step", concern if dominated else "")
