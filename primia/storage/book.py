"""What the books of both daemons share: one database, a clock, and a few named values."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from primia.storage.database import Database
from primia.storage.disk import DISK, Disk

NOTES = "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT"


class Book:
    """A daemon's database; every method is one transaction. StateError for faults of the disk."""

    def __init__(
        self,
        path: Path,
        migrations: Sequence[str],
        clock: Callable[[], float] = time.time,
        disk: Disk = DISK,
        secret: Sequence[str] = (),
    ) -> None:
        """Open or make the file; its first migration is `NOTES`, the others are the caller's.

        secret: tables that are in no copy.
        """
        self._db = Database(path, [NOTES, *migrations], disk, secret)
        self._clock = clock

    def close(self) -> None:
        """Close the file; what was committed stays."""
        self._db.close()

    def note(self, key: str, value: str) -> None:
        """Remember one named value."""
        with self._db.transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def noted(self, key: str) -> str | None:
        """A value that `note` kept."""
        with self._db.transaction() as db:
            row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row["value"])
