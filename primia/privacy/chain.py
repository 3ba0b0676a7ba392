"""The rows of a privacy ledger, the digests that chain them, and the schema they are kept in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from primia.errors import StateError
from primia.privacy.mechanism import DistributedDpSgd, DpSgd, Mechanism
from primia.types import Digest, sha256

GENESIS = Digest("0" * 64)
WITHDRAWAL = "withdrawal"

_DOMAINS = (b"primia ledger v1\n", b"primia ledger v2\n", b"primia ledger v3\n")

_KINDS: dict[str | None, type[Mechanism]] = {None: DpSgd, "distributed": DistributedDpSgd}
"""Mechanisms by what the column `kind` holds. NULL is the kind of version 1, which had no such
column: its rows keep their digests."""

VERSION = 3
KEEPS = (
    """
CREATE TRIGGER {table}_keeps_rows BEFORE DELETE ON {table}
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """
CREATE TRIGGER {table}_keeps_values BEFORE UPDATE ON {table}
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
)
_COHORTS = (
    """
CREATE TABLE cohorts (
    digest TEXT PRIMARY KEY,     -- SHA-256 of content
    content BLOB NOT NULL        -- see cohorts.Members
)""",
    *(statement.format(table="cohorts") for statement in KEEPS),
)
SCHEMA = (
    """
CREATE TABLE ledger (
    number INTEGER PRIMARY KEY,  -- 1, 2, 3, ... without a gap
    plan TEXT NOT NULL,          -- of a withdrawal: the fingerprints' key
    round INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    sampling_rate REAL,          -- the three are NULL together: released without privacy
    noise_multiplier REAL,
    steps INTEGER,
    delta REAL NOT NULL,         -- at which the charge was decided
    update_digest TEXT NOT NULL, -- of a withdrawal: the patient's fingerprint
    time TEXT NOT NULL,
    previous TEXT NOT NULL,
    digest TEXT NOT NULL,
    kind TEXT,                   -- see _KINDS; or withdrawal
    study TEXT,
    site TEXT,
    cohort TEXT,                 -- digest of a row of cohorts; NULL: everybody
    UNIQUE (plan, round, update_digest)
)""",
    *(statement.format(table="ledger") for statement in KEEPS),
    *_COHORTS,
)
TO_VERSION = {
    2: ("ALTER TABLE ledger ADD COLUMN kind TEXT",),
    3: (
        "ALTER TABLE ledger ADD COLUMN study TEXT",
        "ALTER TABLE ledger ADD COLUMN site TEXT",
        "ALTER TABLE ledger ADD COLUMN cohort TEXT",
        *_COHORTS,
    ),
}
COLUMNS = (
    *("number", "plan", "round", "attempt", "sampling_rate", "noise_multiplier", "steps"),
    *("delta", "update_digest", "time", "previous", "digest", "kind", "study", "site", "cohort"),
)


@dataclass(frozen=True)
class Row:
    """One release, as charged, or one withdrawal.

    mechanism: None for a release without privacy. cohort: digest of its `Members`; None: it counts
    for every patient of the site, as in ledgers of before. withdrawn: the fingerprint of a patient
    that is not used any more; such a row releases nothing.
    """

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
    study: str | None = None
    site: str | None = None
    cohort: Digest | None = None
    withdrawn: bytes | None = None


@dataclass(frozen=True)
class Head:
    """Where the chain ends: number of rows and digest of the last one."""

    rows: int
    digest: Digest

    def __str__(self) -> str:
        """As it is noted outside the ledger; `of` is the inverse."""
        return f"{self.rows}:{self.digest}"

    @classmethod
    def of(cls, text: str) -> Self:
        """Raises StateError when the text is no head."""
        try:
            rows, digest = text.split(":")
            return cls(int(rows), Digest(digest))
        except ValueError as err:
            raise StateError(
                "where the ledger ended is noted in worker.db, and the note is damaged; restore "
                "ledger and database from one backup"
            ) from err


HEAD_NOTE = "ledger_head"
"""Under this name a worker's database keeps where the ledger ended when it last charged: a ledger
that was put back to an older copy is then found."""


def from_columns(columns: Sequence[Any]) -> Row:
    """A row as SQLite holds it. Raises KeyError, TypeError or ValueError when it holds nonsense."""
    number, plan, round_number, attempt, rate, noise, steps, *rest = columns
    delta, update, time, previous, digest, kind, study, site, cohort = rest
    mechanism, withdrawn = None, None
    if kind == WITHDRAWAL:
        withdrawn = bytes.fromhex(update)
        if (rate, noise, steps) != (None, None, None):
            raise ValueError("a withdrawal releases nothing")
    elif any(value is not None for value in (rate, noise, steps, kind)):
        mechanism = _KINDS[kind](rate, noise, steps)
    return Row(
        number, plan, round_number, attempt, mechanism, delta, update, time, previous, digest,
        study, site, cohort, withdrawn,
    )  # fmt: skip


def to_columns(row: Row) -> tuple[object, ...]:
    """The values of COLUMNS. float() and int(): what comes back must hash like what went in."""
    m = row.mechanism
    private = (
        (None, None, None)
        if m is None
        else (float(m.sampling_rate), float(m.noise_multiplier), int(m.steps))
    )
    kind = None if m is None else next(name for name, known in _KINDS.items() if type(m) is known)
    kind = kind if row.withdrawn is None else WITHDRAWAL
    first = (int(row.number), row.plan, int(row.round), int(row.attempt))
    last = (row.update, row.time, row.previous, row.digest)
    return (
        *first, *private, float(row.delta), *last, kind, row.study, row.site, row.cohort,
    )  # fmt: skip


def row_digest(row: Row) -> Digest:
    """SHA-256 over all columns but the digest itself; `previous` is among them.

    Columns that a later version added and that are NULL are left out, as that version had it.
    """
    *columns, _, kind, study, site, cohort = to_columns(row)
    domain = _DOMAINS[0]
    if (study, site, cohort) != (None, None, None):
        domain = _DOMAINS[2]
        columns += [kind, study, site, cohort]
    elif kind is not None:
        domain = _DOMAINS[1]
        columns.append(kind)
    content = json.dumps(columns, separators=(",", ":"), allow_nan=False)
    return sha256(domain + content.encode())
