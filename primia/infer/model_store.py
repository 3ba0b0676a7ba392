"""What a model owner remembers: who is enrolled, budgets, model versions, one-time sessions.

Sessions go through the same states as at the data owner (`data_store`); a spent row stays for
ever, so a data owner whose folder was put back to an older copy is refused here, and the reverse.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from primia.errors import BudgetExhausted, PeerError, StateError, TooManyCalls
from primia.infer.material import MaterialFolder, Taken
from primia.infer.speaking import counted
from primia.roster import SCHEMA, Roster
from primia.storage.audit_log import FILE, AuditLog
from primia.storage.book import Book
from primia.storage.disk import DISK, Disk
from primia.types import Digest, SiteId
from primia.wire.inference_handler import Batch, Hello

DATABASE = "model-owner.db"
MATERIAL = "material"
DAY_S = 86400.0

_MIGRATIONS = [
    SCHEMA,
    """
    CREATE TABLE versions (
        program TEXT PRIMARY KEY, model_version TEXT NOT NULL UNIQUE, weights TEXT NOT NULL,
        mask_seed BLOB NOT NULL, first_served REAL NOT NULL
    ) STRICT;
    CREATE TABLE sessions (
        number INTEGER PRIMARY KEY AUTOINCREMENT, session BLOB UNIQUE, batch BLOB,
        site TEXT NOT NULL, program TEXT NOT NULL, films INTEGER NOT NULL, seed BLOB, key BLOB,
        state TEXT NOT NULL CHECK (state IN ('ordered', 'held', 'fresh', 'spent'))
    ) STRICT;
    CREATE INDEX sessions_by_batch ON sessions (batch);
    CREATE TABLE budgets (
        site TEXT PRIMARY KEY, films INTEGER NOT NULL, per_day INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE queries (
        number INTEGER PRIMARY KEY, site TEXT NOT NULL, at REAL NOT NULL, films INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX queries_by_site ON queries (site, at);
    """,
]


@dataclass(frozen=True)
class Budget:
    """What a data owner may ask: films in all and in any 24 hours; asked so far."""

    films: int
    per_day: int
    asked: int = 0
    asked_today: int = 0

    @property
    def left(self) -> int:
        """Films that it may ask about in all."""
        return max(0, self.films - self.asked)


DEFAULT_BUDGET = Budget(films=1000, per_day=200)


@dataclass(frozen=True)
class Held:
    """Our part of one session, as long as it is here."""

    session: bytes
    number: int
    batch: bytes
    films: int
    seed: bytes = field(repr=False)
    key: bytes = field(repr=False)


class ModelStore(Roster):
    """The model owner's database, audit log and folder of material."""

    inviter = "model owner"

    def __init__(
        self, folder: Path, clock: Callable[[], float] = time.time, disk: Disk = DISK
    ) -> None:
        Book.__init__(self, folder / DATABASE, _MIGRATIONS, clock, disk)
        self.audit = AuditLog(folder / FILE, clock, disk)
        self.material = MaterialFolder(folder / MATERIAL, disk)

    # --- model versions ----------------------------------------------------------------------

    def mask_seed(self, program: Digest, model_version: str, weights: Digest) -> bytes:
        """The seed of this version's mask, made when it is first served.

        Raises StateError when other weights were served as this version: two models under one
        mask would show their difference.
        """
        with self._db.transaction() as db:
            row = db.execute(
                "SELECT * FROM versions WHERE model_version = ?", (model_version,)
            ).fetchone()
            if row is None:
                seed = secrets.token_bytes(32)
                self.audit.append(
                    "model_served", program=program, model_version=model_version, weights=weights
                )
                db.execute(
                    "INSERT INTO versions VALUES (?, ?, ?, ?, ?)",
                    (program, model_version, weights, seed, self._clock()),
                )
                return seed
        if (row["program"], row["weights"]) != (program, weights):
            raise StateError(
                "this model file has the version of another one that was served here; prepare the "
                "model again, which gives it a version of its own"
            )
        return bytes(row["mask_seed"])

    # --- budgets -----------------------------------------------------------------------------

    def set_budget(self, site: SiteId, *, films: int | None, per_day: int | None) -> Budget:
        """Change what a data owner may ask; None leaves it as it is."""
        with self._db.transaction() as db:
            now = self._budget(db, site)
            new = Budget(
                now.films if films is None else films, now.per_day if per_day is None else per_day
            )
            self.audit.append("budget_set", site=site, queries=new.films, per_day=new.per_day)
            db.execute(
                "INSERT OR REPLACE INTO budgets VALUES (?, ?, ?)", (site, new.films, new.per_day)
            )
            return self._budget(db, site)

    def budget(self, site: SiteId) -> Budget:
        """What a data owner may ask, and has asked."""
        with self._db.transaction() as db:
            return self._budget(db, site)

    def _budget(self, db: sqlite3.Connection, site: SiteId) -> Budget:
        row = db.execute("SELECT * FROM budgets WHERE site = ?", (site,)).fetchone()
        limits = DEFAULT_BUDGET if row is None else Budget(row["films"], row["per_day"])
        asked, today = db.execute(
            "SELECT coalesce(sum(films), 0), coalesce(sum(films) FILTER (WHERE at > ?), 0) "
            "FROM queries WHERE site = ?",
            (self._clock() - DAY_S, site),
        ).fetchone()
        return Budget(limits.films, limits.per_day, asked, today)

    def check_budget(self, site: SiteId, films: int) -> None:
        """Raise BudgetExhausted or TooManyCalls when `films` more are too many now."""
        with self._db.transaction() as db:
            _check(site, self._budget(db, site), films)

    # --- sessions ----------------------------------------------------------------------------

    def order(
        self, site: SiteId, program: Digest, films: int, sessions: int, opened: int
    ) -> tuple[int, ...]:
        """Numbers for sessions of a batch; a number is given once, whatever becomes of it.

        opened: how many of them are for the check only. Raises BudgetExhausted when more would be
        stocked than may be asked, but for one session: material of a film takes a disk's space.
        """
        with self._db.transaction() as db:
            left = self._budget(db, site).left
            stocked = self._films_stocked(db, site)
            if left == 0 or stocked + (sessions - opened - 1) * films > left:
                raise BudgetExhausted(
                    f"{site} has material for {counted(stocked, 'film')} stocked and may ask about "
                    f"{left}: {(sessions - opened) * films} more are too many. Stock fewer, "
                    "discard what is stocked (primia infer stock 0 --discard), or have the model "
                    f"owner raise the query budget: primia infer budget {site} --films N"
                )
            numbers = []
            for _ in range(sessions):
                done = db.execute(
                    "INSERT INTO sessions (site, program, films, state) "
                    "VALUES (?, ?, ?, 'ordered')",
                    (site, program, films),
                )
                numbers.append(int(done.lastrowid or 0))
        return tuple(numbers)

    def _films_stocked(self, db: sqlite3.Connection, site: SiteId) -> int:
        found = db.execute(
            "SELECT coalesce(sum(films), 0) FROM sessions WHERE site = ? AND state <> 'spent'",
            (site,),
        ).fetchone()
        return int(found[0])

    def cancel(self, numbers: Iterable[int]) -> None:
        """The sessions of these numbers were never held: their dealing broke off."""
        with self._db.transaction() as db:
            db.executemany(
                "UPDATE sessions SET state = 'spent' WHERE number = ? AND state = 'ordered'",
                [(number,) for number in numbers],
            )

    def hold(self, batch: Batch, keys: dict[bytes, bytes]) -> None:
        """The material of every session of `batch` is on disk under its key."""
        with self._db.transaction() as db:
            for s in batch.sessions:
                db.execute(
                    "UPDATE sessions SET session = ?, batch = ?, seed = ?, key = ?, state = 'held' "
                    "WHERE number = ? AND state = 'ordered'",
                    (s.session, batch.batch, s.seed, keys[s.session], s.number),
                )

    def held(self, site: SiteId, batch: bytes) -> list[Held]:
        """What is held of a batch, by number. Raises PeerError when it is not, for this caller."""
        with self._db.transaction() as db:
            rows = db.execute(
                "SELECT session, number, batch, films, seed, key FROM sessions "
                "WHERE batch = ? AND site = ? AND state = 'held' ORDER BY number",
                (batch, site),
            ).fetchall()
        if not rows:
            raise PeerError("this batch is not held here, or was opened before; stock again")
        return [Held(**dict(row)) for row in rows]

    def release(self, site: SiteId, batch: bytes, opened: Iterable[bytes]) -> None:
        """The opened sessions held what was dealt: the others may be used, these never."""
        opened = list(opened)
        self._forget(opened)
        with self._db.transaction() as db:
            done = db.execute(
                "UPDATE sessions SET state = 'fresh' WHERE batch = ? AND state = 'held'", (batch,)
            )
            self.audit.append(
                "batch_checked",
                site=site, batch=batch.hex(), sessions=done.rowcount, opened=len(opened),
            )  # fmt: skip

    def begin(self, site: SiteId, hello: Hello) -> tuple[Held, Taken]:
        """Take a session out for good and charge its films, both durable on return.

        Raises, with nothing changed, BudgetExhausted or TooManyCalls, and PeerError for a session
        that is unknown here, spent, or of another data owner, program or size.
        """
        with self._db.transaction() as db:
            _check(site, self._budget(db, site), hello.films)
            row = db.execute(
                "SELECT * FROM sessions WHERE number = ? AND site = ?", (hello.number, site)
            ).fetchone()
            if row is None or row["session"] != hello.session:
                raise PeerError(
                    "this session is not known here: the model owner's folder was put back to an "
                    "older copy, or the session is another data owner's; discard what is stocked "
                    "(primia infer stock 0 --discard) and ask again"
                )
            if row["state"] == "spent":
                raise PeerError(
                    "this session was used before and is refused: the data owner's folder was put "
                    "back to an older copy, or runs twice. Find out which, then ask again: each "
                    "session that was used is refused once, or discard all that is stocked at "
                    "once (primia infer stock 0 --discard)"
                )
            if row["state"] != "fresh":
                raise PeerError("the batch of this session was never checked; stock again")
            if (row["program"], row["films"]) != (hello.program, hello.films):
                raise PeerError("this session was dealt for another program or number of films")
            self.audit.append(
                "query_charged", site=site, number=hello.number, queries=hello.films,
                left=self._budget(db, site).left - hello.films,
            )  # fmt: skip
            db.execute(
                "INSERT INTO queries (site, at, films) VALUES (?, ?, ?)",
                (site, self._clock(), hello.films),
            )
            taken = self.material.take(hello.session)
            _spend(db, hello.session)
        self._db.scrub()
        taken.delete()
        names = ("session", "number", "batch", "films", "seed", "key")
        return Held(**{n: row[n] for n in names}), taken

    def discard(self, site: SiteId, sessions: Iterable[bytes]) -> None:
        """Sessions that the data owner will not use: begun without us, or thrown away."""
        with self._db.transaction() as db:
            ours = [
                s
                for s in sessions
                if db.execute(
                    "SELECT 1 FROM sessions WHERE session = ? AND site = ? AND state <> 'spent'",
                    (s, site),
                ).fetchone()
            ]
        self._forget(ours)

    def drop_batch(self, batch: bytes) -> None:
        """Spend what is held of a batch that did not hold."""
        with self._db.transaction() as db:
            rows = db.execute("SELECT session FROM sessions WHERE batch = ?", (batch,)).fetchall()
        self._forget([r["session"] for r in rows])

    def sweep(self, program: Digest, terms: str = "") -> int:
        """At the start: let go of batches that were under way, of sessions of another version or
        on other terms, and of files that no session needs. Returns how many that data owners had
        stocked are gone."""
        same = self.noted("terms") in {None, terms}
        self.note("terms", terms)
        with self._db.transaction() as db:
            db.execute("UPDATE sessions SET state = 'spent' WHERE state = 'ordered'")
            rows = db.execute(
                "SELECT session, state FROM sessions WHERE session IS NOT NULL AND "
                "(state = 'held' OR "
                "(state = 'fresh' AND (program <> ? OR NOT ?)))",
                (program, same),
            ).fetchall()
        self._forget([r["session"] for r in rows])
        with self._db.transaction() as db:
            fresh = db.execute("SELECT session FROM sessions WHERE state = 'fresh'").fetchall()
        self.material.keep_only(r["session"] for r in fresh)
        return sum(r["state"] == "fresh" for r in rows)

    def stocked(self) -> dict[SiteId, int]:
        """How many sessions each data owner may begin."""
        with self._db.transaction() as db:
            rows = db.execute(
                "SELECT site, count(*) AS many FROM sessions WHERE state = 'fresh' GROUP BY site"
            ).fetchall()
        return {SiteId(r["site"]): r["many"] for r in rows}

    def material_bytes(self, site: SiteId) -> int:
        """What is stocked for a data owner takes so much of this disk."""
        with self._db.transaction() as db:
            rows = db.execute(
                "SELECT session FROM sessions WHERE site = ? AND state IN ('held', 'fresh')",
                (site,),
            ).fetchall()
        return self.material.bytes_of(r["session"] for r in rows)

    def _forget(self, sessions: list[bytes]) -> None:
        with self._db.transaction() as db:
            for session in sessions:
                _spend(db, session)
        self._db.scrub()
        self.material.remove(sessions)


def _spend(db: sqlite3.Connection, session: bytes) -> None:
    db.execute(
        "UPDATE sessions SET state = 'spent', seed = NULL, key = NULL WHERE session = ?", (session,)
    )


def _check(site: SiteId, budget: Budget, films: int) -> None:
    if films > budget.left:
        raise BudgetExhausted(
            f"the query budget of {site} is spent: {budget.asked} of "
            f"{counted(budget.films, 'film')} asked about, which leaves no room for {films} more; "
            f"the model owner can raise it: primia infer budget {site} --films N"
        )
    if budget.asked_today + films > budget.per_day:
        raise TooManyCalls(
            f"{site} asked about {counted(budget.asked_today, 'film')} in the last 24 hours and "
            f"may ask about {budget.per_day}; ask later, or have the model owner raise it: "
            f"primia infer budget {site} --per-day N"
        )
