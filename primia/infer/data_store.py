"""What a data owner remembers: where it enrolled, whom it trusts, and its one-time sessions.

A session is `held` until its batch was checked, `fresh` until it begins, and `spent` for ever
after. Its row is changed and its seed overwritten, durably, before the first byte that depends on
the seed leaves; so a crash at any moment costs a session and never uses one twice.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from primia.errors import PeerError, StateError
from primia.infer.material import MaterialFolder, Taken
from primia.storage.audit_log import FILE, AuditLog
from primia.storage.book import Book
from primia.storage.disk import DISK, Disk
from primia.types import Digest
from primia.wire.inference_handler import Collected

DATABASE = "data-owner.db"
MATERIAL = "material"
_MOST_TOLD = 500
_UNDER_WAY_S = 900.0  # one that began is not given up for another process before
_HELD_S = 3600.0  # a batch that was not checked by then never will be

_MIGRATIONS = [
    """
    CREATE TABLE sessions (
        session BLOB PRIMARY KEY, number INTEGER NOT NULL UNIQUE, batch BLOB NOT NULL,
        program TEXT NOT NULL, films INTEGER NOT NULL, seed BLOB, key BLOB,
        state TEXT NOT NULL CHECK (state IN ('held', 'fresh', 'spent')),
        made_at REAL NOT NULL, begun_at REAL NOT NULL DEFAULT 0, told INTEGER NOT NULL DEFAULT 0,
        CHECK ((seed IS NULL) = (state = 'spent'))
    ) STRICT;
    CREATE INDEX fresh_sessions ON sessions (program, films, number) WHERE state = 'fresh';
    """,
]


@dataclass(frozen=True)
class Begun:
    """A session that was taken out of the store."""

    session: bytes
    number: int
    batch: bytes
    films: int
    seed: bytes = field(repr=False)
    key: bytes | None = field(repr=False)  # of the products made beforehand, if there are any
    taken: Taken | None = None
    discarded: tuple[bytes, ...] = ()  # others that the model owner can let go of


class DataStore(Book):
    """The data owner's database and audit log. Safe for several processes: each begins its own."""

    def __init__(
        self, folder: Path, clock: Callable[[], float] = time.time, disk: Disk = DISK
    ) -> None:
        super().__init__(folder / DATABASE, _MIGRATIONS, clock, disk)
        self.audit = AuditLog(folder / FILE, clock, disk)
        self.material = MaterialFolder(folder / MATERIAL, disk)

    def keep_products(self, session: bytes, key: bytes, products: Iterable[bytes]) -> None:
        """Put the work that needs no film on disk, as the model owner's material is."""
        self.material.write(session, key, products)
        with self._db.transaction() as db:
            db.execute(
                "UPDATE sessions SET key = ? WHERE session = ? AND state = 'held'", (key, session)
            )

    def sweep(self) -> None:
        """Delete files of products that no session can use any more."""
        with self._db.transaction() as db:
            rows = db.execute("SELECT session FROM sessions WHERE state <> 'spent'").fetchall()
        self.material.keep_only(r["session"] for r in rows)

    def hold(self, collected: Collected) -> None:
        """Keep the seeds of a batch; none may be used before `release`.

        Raises PeerError when a session or its number was here before: then the model owner's
        store is older than ours.
        """
        sessions, now = collected.batch.sessions, self._clock()
        try:
            with self._db.transaction() as db:
                db.execute(
                    "UPDATE sessions SET state = 'spent', seed = NULL, key = NULL "
                    "WHERE state = 'held' AND made_at < ?",
                    (now - _HELD_S,),
                )
                db.executemany(
                    "INSERT INTO sessions (session, number, batch, program, films, seed, state, "
                    "made_at) VALUES (?, ?, ?, ?, ?, ?, 'held', ?)",
                    [
                        (s.session, s.number, collected.batch.batch, collected.program,
                         collected.films, s.seed, now)
                        for s in sessions
                    ],
                )  # fmt: skip
                self.audit.append(
                    "material_held", batch=collected.batch.batch.hex(), sessions=len(sessions)
                )
        except sqlite3.IntegrityError as err:
            raise PeerError(
                "the model owner counts sessions that were counted here before: its folder was put "
                "back to an older copy; nothing of this batch is used, tell its operator"
            ) from err

    def show(self, batch: bytes, sessions: Iterable[bytes]) -> dict[bytes, bytes]:
        """The seeds of sessions that are opened; these are spent before anybody sees them."""
        shown: dict[bytes, bytes] = {}
        with self._db.transaction() as db:
            for session in sessions:
                row = db.execute(
                    "SELECT seed FROM sessions WHERE session = ? AND batch = ? AND state = 'held'",
                    (session, batch),
                ).fetchone()
                if row is None:
                    raise StateError("a session to be opened is not held here; stock again")
                shown[session] = row["seed"]
                _spend(db, session, told=True)
        self._db.scrub()
        return shown

    def held(self, batch: bytes) -> dict[bytes, bytes]:
        """The seeds of a batch that was checked and is not released yet, by session."""
        with self._db.transaction() as db:
            rows = db.execute(
                "SELECT session, seed FROM sessions WHERE batch = ? AND state = 'held'", (batch,)
            ).fetchall()
        return {r["session"]: r["seed"] for r in rows}

    def release(self, batch: bytes) -> int:
        """The batch was checked: what is left of it may be used. Returns how many that are."""
        with self._db.transaction() as db:
            done = db.execute(
                "UPDATE sessions SET state = 'fresh' WHERE batch = ? AND state = 'held'", (batch,)
            )
            return done.rowcount

    def begin(self, program: Digest, films: int) -> Begun | None:
        """Take one session out for good, the oldest of this program and size; None without one.

        On return nothing of it is on disk any more.
        """
        with self._db.transaction() as db:
            row = db.execute(
                "SELECT session, number, batch, films, seed, key FROM sessions "
                "WHERE program = ? AND films = ? AND state = 'fresh' ORDER BY number LIMIT 1",
                (program, films),
            ).fetchone()
            if row is None:
                return None
            discarded = self._untold(db)
            taken = None
            if row["key"] is not None:
                # Opened before another process may sweep it, deleted once the row is spent.
                taken = self.material.take(row["session"])
            _spend(db, row["session"], told=False)
            db.execute(
                "UPDATE sessions SET begun_at = ? WHERE session = ?",
                (self._clock(), row["session"]),
            )
            self.audit.append("session_begun", session=row["session"].hex(), number=row["number"])
        self._db.scrub()
        if taken is not None:
            taken.delete()
        return Begun(**dict(row), taken=taken, discarded=discarded)

    def untold(self) -> tuple[bytes, ...]:
        """Sessions that are spent here without the model owner's knowledge."""
        with self._db.transaction() as db:
            return self._untold(db)

    def _untold(self, db: sqlite3.Connection) -> tuple[bytes, ...]:
        rows = db.execute(
            "SELECT session FROM sessions WHERE state = 'spent' AND told = 0 AND begun_at < ? "
            "ORDER BY number LIMIT ?",
            (self._clock() - _UNDER_WAY_S, _MOST_TOLD),
        ).fetchall()
        return tuple(r["session"] for r in rows)

    def told(self, sessions: Iterable[bytes]) -> None:
        """The model owner knows that these are spent."""
        with self._db.transaction() as db:
            db.executemany(
                "UPDATE sessions SET told = 1 WHERE session = ?", [(s,) for s in sessions]
            )

    def give_up(self, session: bytes) -> None:
        """A prediction failed: the model owner may let go of its session, if it still holds it."""
        with self._db.transaction() as db:
            db.execute("UPDATE sessions SET begun_at = 0 WHERE session = ?", (session,))

    def discard(self, keep: Digest | None = None) -> int:
        """Spend every session that is not for the program `keep`; returns how many there were."""
        with self._db.transaction() as db:
            done = db.execute(
                "UPDATE sessions SET state = 'spent', seed = NULL, key = NULL, told = 0 "
                "WHERE state <> 'spent' AND program IS NOT ?",
                (keep,),
            )
        self._db.scrub()
        return done.rowcount

    def drop_held(self, batch: bytes) -> None:
        """Spend what was never checked of a batch."""
        with self._db.transaction() as db:
            db.execute(
                "UPDATE sessions SET state = 'spent', seed = NULL, key = NULL WHERE batch = ? "
                "AND state = 'held'",
                (batch,),
            )
        self._db.scrub()

    def material_bytes(self) -> int:
        """What the work done beforehand takes of this disk."""
        with self._db.transaction() as db:
            rows = db.execute("SELECT session FROM sessions WHERE state <> 'spent'").fetchall()
        return self.material.bytes_of(r["session"] for r in rows)

    def stocked(self) -> dict[tuple[Digest, int], int]:
        """How many sessions may be begun, by program and films in each."""
        with self._db.transaction() as db:
            rows = db.execute(
                "SELECT program, films, count(*) AS many FROM sessions WHERE state = 'fresh' "
                "GROUP BY program, films"
            ).fetchall()
        return {(Digest(r["program"]), r["films"]): r["many"] for r in rows}


def _spend(db: sqlite3.Connection, session: bytes, *, told: bool) -> None:
    db.execute(
        "UPDATE sessions SET state = 'spent', seed = NULL, key = NULL, told = ? WHERE session = ?",
        (int(told), session),
    )
