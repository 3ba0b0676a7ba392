"""The hospital's own record of what its patients have shown so far.

One ledger belongs to one cohort: all patients of the site, whatever the study. A row is committed
before the first byte of the update leaves; it is never changed and never removed. Each row holds
the SHA-256 of the row before it, so that an edited, missing or reordered row is found, and `head`
is a fingerprint that the worker can keep elsewhere to find a ledger put back to an older state.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from primia.errors import BudgetExhausted, StateError
from primia.privacy.accounting import epsilon
from primia.privacy.mechanism import DistributedDpSgd, DpSgd, Mechanism
from primia.storage.disk import DISK, Disk
from primia.types import Digest, sha256

GENESIS = Digest("0" * 64)
_DOMAIN = b"primia ledger v1\n"
_DOMAIN_OF_KINDS = b"primia ledger v2\n"  # of rows that name their kind

_KINDS: dict[str | None, type[Mechanism]] = {None: DpSgd, "distributed": DistributedDpSgd}
"""Mechanisms by what the column `kind` holds. NULL is the kind of version 1, which had no such
column: its rows keep their digests."""

_VERSION = 2
_SCHEMA = (
    """
CREATE TABLE ledger (
    number INTEGER PRIMARY KEY,  -- 1, 2, 3, ... without a gap
    plan TEXT NOT NULL,
    round INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    sampling_rate REAL,          -- the three are NULL together: released without privacy
    noise_multiplier REAL,
    steps INTEGER,
    delta REAL NOT NULL,         -- at which the charge was decided
    update_digest TEXT NOT NULL,
    time TEXT NOT NULL,
    previous TEXT NOT NULL,
    digest TEXT NOT NULL,
    kind TEXT,                   -- see _KINDS
    UNIQUE (plan, round, update_digest)
)""",
    """
CREATE TRIGGER ledger_keeps_rows BEFORE DELETE ON ledger
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """
CREATE TRIGGER ledger_keeps_values BEFORE UPDATE ON ledger
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    f"PRAGMA user_version = {_VERSION}",
)
_FROM_VERSION_1 = (
    "ALTER TABLE ledger ADD COLUMN kind TEXT",
    f"PRAGMA user_version = {_VERSION}",
)
_COLUMNS = (
    *("number", "plan", "round", "attempt", "sampling_rate", "noise_multiplier", "steps"),
    *("delta", "update_digest", "time", "previous", "digest", "kind"),
)


@dataclass(frozen=True)
class Row:
    """One release, as charged. `mechanism` is None for a release without privacy."""

    number: int
    plan: Digest
    round: int
    attempt: int
    mechanism: Mechanism | None
    delta: float
    update: Digest
    time: str
    previous: Digest
    digest: Digest


@dataclass(frozen=True)
class Head:
    """Where the chain ends: number of rows and digest of the last one."""

    rows: int
    digest: Digest


class Ledger:
    """An append-only SQLite file with a hash chain.

    Safe for several processes: a charge holds SQLite's write lock from reading the past to the
    commit. Raises StateError when the file cannot be used.
    """

    def __init__(self, path: Path, *, create: bool = False, disk: Disk = DISK) -> None:
        """Open the ledger at `path`.

        create: make an empty one where none is. Leave it False at a site that has ever taken part
            in a study: a missing ledger then raises StateError instead of a fresh budget.
        """
        if not create and not disk.exists(path):
            raise StateError(
                f"{path}: the privacy ledger is missing; restore it from a backup, because without "
                "it nobody knows what this site's patients have already shown"
            )
        self.path = path
        with self._storage():
            self._db = disk.connect(path, 60.0, one_thread=True)
            try:
                self._prepare(create)
                disk.sync_folder(path.parent)  # a new file's name is durable, too
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Close the file. What was charged stays charged."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def charge(
        self,
        *,
        plan: Digest,
        round_number: int,
        attempt: int,
        mechanism: Mechanism | None,
        update: Digest,
        cap_epsilon: float,
        cap_delta: float,
        time: str,
    ) -> Row:
        """Commit one release to disk, or raise BudgetExhausted and write nothing.

        The release is granted when ε at `cap_delta` of all rows and this one together is at most
        `cap_epsilon`. The same update for the same plan and round is charged once, however often
        it is sent: the row of the first time comes back.

        mechanism: what the update revealed; None for one without noise, whose ε is infinite and
            which therefore needs `cap_epsilon=math.inf`, an explicit wish of the site.
        time: when, as text (ISO 8601); the ledger has no clock.
        """
        with self._storage(), self._transaction():
            rows = self._checked_rows(None)
            for row in rows:
                if (row.plan, row.round, row.update) == (plan, round_number, update):
                    return row
            _afford([row.mechanism for row in rows], mechanism, cap_epsilon, cap_delta)
            content = Row(
                number=len(rows) + 1,
                plan=plan,
                round=round_number,
                attempt=attempt,
                mechanism=mechanism,
                delta=cap_delta,
                update=update,
                time=time,
                previous=rows[-1].digest if rows else GENESIS,
                digest=GENESIS,
            )
            row = replace(content, digest=_digest(content))
            marks = ", ".join("?" * len(_COLUMNS))
            self._db.execute(
                f"INSERT INTO ledger ({', '.join(_COLUMNS)}) VALUES ({marks})",  # noqa: S608
                _to_columns(row),
            )
        return row

    def afford(self, mechanism: Mechanism, cap_epsilon: float, cap_delta: float) -> None:
        """Raise BudgetExhausted if `charge` would; nothing is written either way."""
        _afford([row.mechanism for row in self.rows()], mechanism, cap_epsilon, cap_delta)

    def rows(self) -> tuple[Row, ...]:
        """All releases, oldest first."""
        with self._storage():
            return self._rows()

    def spent(self, delta: float) -> float:
        """ε at `delta` of everything charged so far; infinite after a release without privacy."""
        return _total([row.mechanism for row in self.rows()], delta)

    def head(self) -> Head:
        """Where the chain ends now; keep it outside the ledger, in the worker's own state."""
        rows = self.rows()
        return Head(len(rows), rows[-1].digest) if rows else Head(0, GENESIS)

    def verify(self, at_least: Head | None = None) -> Head:
        """Check every row against the chain and give back its end.

        at_least: an end seen earlier; the chain must still contain it.
        Raises StateError naming the first row that does not hold.
        """
        with self._storage():
            rows = self._checked_rows(at_least)
        return Head(len(rows), rows[-1].digest) if rows else Head(0, GENESIS)

    def _checked_rows(self, at_least: Head | None) -> tuple[Row, ...]:
        rows = self._rows()
        previous = GENESIS
        for number, row in enumerate(rows, start=1):
            if (row.number, row.previous, row.digest) != (number, previous, _digest(row)):
                raise StateError(
                    f"{self.path}: the privacy ledger was changed at row {number}; restore it "
                    "from a backup and find out who wrote to it"
                )
            previous = row.digest
        if at_least is not None and at_least.rows > 0:
            here = rows[at_least.rows - 1].digest if at_least.rows <= len(rows) else None
            if here != at_least.digest:
                raise StateError(
                    f"{self.path}: the privacy ledger is older than what this site has already "
                    f"released (row {at_least.rows} is missing); restore the newest copy"
                )
        return rows

    def _rows(self) -> tuple[Row, ...]:
        query = f"SELECT {', '.join(_COLUMNS)} FROM ledger ORDER BY number"  # noqa: S608
        return tuple(self._from_columns(columns) for columns in self._db.execute(query))

    def _from_columns(self, columns: Sequence[Any]) -> Row:
        number, plan, round_number, attempt, rate, noise, steps, *rest, kind = columns
        delta, update, time, prev, own = rest
        try:
            private = any(value is not None for value in (rate, noise, steps, kind))
            mechanism = _KINDS[kind](rate, noise, steps) if private else None
        except (KeyError, TypeError, ValueError) as err:
            raise StateError(
                f"{self.path}: row {number} of the privacy ledger is not readable ({err}); "
                "restore it from a backup"
            ) from err
        return Row(number, plan, round_number, attempt, mechanism, delta, update, time, prev, own)

    def _prepare(self, create: bool) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        # FULL: a charge has reached the disk before the update may leave.
        self._db.execute("PRAGMA synchronous = FULL")
        with self._transaction():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and create:
                for statement in _SCHEMA:
                    self._db.execute(statement)
            elif version == 1:
                for statement in _FROM_VERSION_1:
                    self._db.execute(statement)
            elif version != _VERSION:
                raise StateError(
                    f"{self.path}: not a privacy ledger of version {_VERSION} (found {version}); "
                    "check the path or restore it from a backup"
                )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a bug of the caller (closed file, wrong thread), not the disk's fault
        except (sqlite3.Error, OSError) as err:
            raise StateError(
                f"{self.path}: the privacy ledger cannot be used ({err}); check disk, rights and "
                "whether the file is a ledger"
            ) from err


def _afford(
    past: Sequence[Mechanism | None], wanted: Mechanism | None, cap_epsilon: float, cap_delta: float
) -> None:
    total = _total([*past, wanted], cap_delta)
    if total <= cap_epsilon:  # false for NaN: fail closed
        return
    spent = _total(past, cap_delta)
    raise BudgetExhausted(
        f"privacy budget: {spent:.3f} spent, this update would make it {total:.3f}, the site's cap "
        f"is {cap_epsilon:.3f} (epsilon at delta {cap_delta:g}); stop here, or have the data "
        "protection officer raise caps.max_epsilon"
    )


def _total(mechanisms: Sequence[Mechanism | None], delta: float) -> float:
    known = [m for m in mechanisms if m is not None]
    return math.inf if len(known) < len(mechanisms) else epsilon(known, delta)


def _to_columns(row: Row) -> tuple[object, ...]:
    # float() and int(): what comes back from SQLite must hash like what went in.
    m = row.mechanism
    private = (
        (None, None, None)
        if m is None
        else (float(m.sampling_rate), float(m.noise_multiplier), int(m.steps))
    )
    kind = None if m is None else next(name for name, known in _KINDS.items() if type(m) is known)
    first = (int(row.number), row.plan, int(row.round), int(row.attempt))
    last = (row.update, row.time, row.previous, row.digest)
    return (*first, *private, float(row.delta), *last, kind)


def _digest(row: Row) -> Digest:
    """SHA-256 over all columns but the digest itself; `previous` is among them.

    A row whose kind is NULL is hashed as version 1 did, without the column.
    """
    *columns, _, kind = _to_columns(row)
    domain = _DOMAIN
    if kind is not None:
        domain = _DOMAIN_OF_KINDS
        columns.append(kind)
    content = json.dumps(columns, separators=(",", ":"), allow_nan=False)
    return sha256(domain + content.encode())
