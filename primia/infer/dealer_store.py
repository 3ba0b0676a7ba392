"""What a dealer remembers on disk: where it enrolled. Of what it deals, nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from primia.storage.audit_log import FILE, AuditLog
from primia.storage.book import Book
from primia.storage.disk import DISK, Disk


class DealerStore(Book):
    """The dealer's notes and audit log."""

    def __init__(
        self, folder: Path, clock: Callable[[], float] = time.time, disk: Disk = DISK
    ) -> None:
        super().__init__(folder / "dealer.db", [], clock, disk)
        self.audit = AuditLog(folder / FILE, clock, disk)
