"""What went wrong beside the rounds' own record: refused calls, late answers, restarts, renewals.

For `primia-coordinator why`. The table cannot be filled by a stranger: what comes again is counted
in its row, and of each code only the newest rows are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from primia.storage.database import Database

MOST = 500  # rows of one code
MOST_TEXT = 500  # characters of a reason, which may quote a caller

SCHEMA = """
    CREATE TABLE troubles (
        code TEXT NOT NULL, who TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
        phase TEXT NOT NULL, reason TEXT NOT NULL, times INTEGER NOT NULL, last_at REAL NOT NULL,
        PRIMARY KEY (code, who, attempt)
    ) STRICT;
"""


@dataclass(frozen=True)
class Trouble:
    """One kind of trouble of one caller. round, attempt: 0 where it belongs to none.

    who: a site, or what a refused caller said it was; empty for the coordinator itself.
    reason: of the newest one. times: how often it came; last_at: when last.
    """

    code: str
    who: str
    round: int
    attempt: int
    phase: str
    reason: str
    times: int
    last_at: float


class TroubleBook:
    """Troubles in the coordinator's database. Raises StateError for faults of the disk."""

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        """clock: the time of day in seconds."""
        self._db, self._clock = db, clock

    def note(
        self,
        code: str,
        who: str,
        reason: str,
        *,
        round_number: int = 0,
        attempt: int = 0,
        phase: str = "",
        times: int = 1,
    ) -> None:
        """Count one more trouble of this kind, and keep its reason."""
        with self._db.transaction() as db:
            db.execute(
                "INSERT INTO troubles VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (code, who, attempt) DO UPDATE SET phase = excluded.phase, "
                "reason = excluded.reason, times = times + excluded.times, "
                "last_at = excluded.last_at",
                (
                    code, who[:MOST_TEXT], round_number, attempt, phase, reason[:MOST_TEXT], times,
                    self._clock(),
                ),
            )  # fmt: skip
            db.execute(
                "DELETE FROM troubles WHERE code = :code AND rowid NOT IN (SELECT rowid FROM "
                "troubles WHERE code = :code ORDER BY last_at DESC, rowid DESC LIMIT :most)",
                {"code": code, "most": MOST},
            )

    def all(self) -> list[Trouble]:
        """Oldest first."""
        with self._db.transaction() as db:
            rows = db.execute("SELECT * FROM troubles ORDER BY last_at, rowid").fetchall()
        return [Trouble(**dict(row)) for row in rows]
