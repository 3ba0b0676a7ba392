"""The hospital's own record of what its patients have shown so far.

One ledger holds all studies of a site, or of several sites of one hospital. A row is committed
before the first byte of the update leaves; it is never changed and never removed. It names the
cohort that was trained on, so that a patient is charged for the studies he or she was in, under
whatever name the cohort goes. Each row holds the SHA-256 of the row before it: an edited, missing
or reordered row is found, and `head` is a fingerprint to keep elsewhere, by which a ledger put back
to an older state is found.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

from primia.errors import BudgetExhausted, PolicyRefused, StateError
from primia.privacy.accounting import epsilon
from primia.privacy.chain import (
    COLUMNS,
    GENESIS,
    SCHEMA,
    TO_VERSION,
    VERSION,
    WITHDRAWAL,
    Head,
    Row,
    from_columns,
    row_digest,
    to_columns,
)
from primia.privacy.cohorts import Members, Overlap, People
from primia.privacy.mechanism import Mechanism
from primia.storage.disk import DISK, Disk
from primia.types import Digest, sha256

History = list[Mechanism | None]
"""What one person was part of; None for a release without privacy."""


class Ledger:
    """An append-only SQLite file with a hash chain.

    Safe for several processes: a charge holds SQLite's write lock from reading the past to the
    commit, so that concurrent studies cannot both spend the last of a budget. Raises StateError
    when the file cannot be used.
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
        self._cohorts: dict[Digest, Members] = {}  # read before; a name is a digest of the content
        self._people: tuple[frozenset[Digest], People] | None = None
        with self._storage():
            self._db = disk.connect(path, 60.0, one_thread=True)
            try:
                self._prepare(create)
                self._file = _file_at(path)
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
        members: Members | None = None,
        study: str | None = None,
        site: str | None = None,
    ) -> Row:
        """Commit one release to disk, or raise BudgetExhausted and write nothing.

        The release is granted when ε at `cap_delta` of everything that any one person of the cohort
        was part of, this release included, is at most `cap_epsilon`. The same update for the same
        plan and round is charged once, however often it is sent: the row of the first time comes
        back; for other patients, PolicyRefused.

        mechanism: what the update revealed; None for one without noise, whose ε is infinite and
            which therefore needs `cap_epsilon=math.inf`, an explicit wish of the site.
        members: whom it was made of; None charges every patient of the site, known or not.
        study, site: names, for people. time: when, as text (ISO 8601); the ledger has no clock.
        """
        with self._storage(), self._transaction():
            self._check_in_place()
            rows = self._checked_rows(None)
            for row in rows:
                if (row.plan, row.round, row.update) == (plan, round_number, update):
                    if members is not None and row.cohort not in (None, members.digest):
                        raise PolicyRefused(
                            "an update of the same bytes is charged to other patients already; "
                            "it is not released for these"
                        )
                    return row
            self._afford(rows, mechanism, cap_epsilon, cap_delta, members)
            if members is not None:
                self._keep(members)
            return self._append(
                rows,
                Row(
                    number=0,
                    plan=plan,
                    round=round_number,
                    attempt=attempt,
                    mechanism=mechanism,
                    delta=cap_delta,
                    update=update,
                    time=time,
                    previous=GENESIS,
                    digest=GENESIS,
                    study=study,
                    site=site,
                    cohort=None if members is None else members.digest,
                ),
            )

    def afford(
        self,
        mechanism: Mechanism,
        cap_epsilon: float,
        cap_delta: float,
        members: Members | None = None,
    ) -> None:
        """Raise BudgetExhausted if `charge` would; nothing is written either way."""
        with self._storage():
            self._afford(self._rows(), mechanism, cap_epsilon, cap_delta, members)

    def withdraw(self, patient: bytes, key: str, time: str) -> bool:
        """Record that a patient is not used any more; False when that was recorded before.

        patient: the fingerprint; key: of what it was made with. What the patient was part of stays
        in the ledger and stays charged.
        """
        with self._storage(), self._transaction():
            rows = self._checked_rows(None)
            self._check_key(rows, key)
            if any(row.withdrawn == patient for row in rows):
                return False
            name, none = Digest(patient.hex()), Digest(key)
            self._append(
                rows,
                Row(0, none, 0, 0, None, 0.0, name, time, GENESIS, GENESIS, withdrawn=patient),
            )
        return True

    def withdrawn(self) -> tuple[frozenset[bytes], frozenset[bytes]]:
        """Fingerprints of patients that are not used any more, and of their films in any cohort.

        All ids of a person are among them.
        """
        with self._storage():
            rows = self._rows()
            patients = [row.withdrawn for row in rows if row.withdrawn is not None]
            return self._persons(None).same_as(patients)

    def withdrawals(self) -> int:
        """How many patients were withdrawn; a cheap question, to ask before every round."""
        with self._storage():
            query = "SELECT count(*) FROM ledger WHERE kind = ?"
            return int(self._db.execute(query, (WITHDRAWAL,)).fetchone()[0])

    def cohorts_of(self, patient: bytes) -> int:
        """How many cohorts hold this patient under this id."""
        with self._storage():
            return sum(patient in members.films for members in self._all_cohorts().values())

    def rows(self) -> tuple[Row, ...]:
        """All releases, oldest first."""
        return tuple(row for row in self.entries() if row.withdrawn is None)

    def entries(self) -> tuple[Row, ...]:
        """Releases and withdrawals, oldest first."""
        with self._storage():
            return self._rows()

    def spent(self, delta: float, members: Members | None = None) -> float:
        """ε at `delta` of what the person who has shown most was part of; of `members`, or of all.

        Infinite after a release without privacy.
        """
        with self._storage():
            histories = self._histories(self._rows(), members)
        return _worst(_total(history, delta) for history in histories)

    def histories(self, members: Members | None = None) -> list[History]:
        """What the persons who have shown most were part of: one list for each set of cohorts."""
        with self._storage():
            return self._histories(self._rows(), members)

    def overlap(self, members: Members) -> Overlap:
        """Which of these patients other cohorts hold already, under the same id or another one."""
        with self._storage():
            self._check_key(self._rows(), members.key)
            others = {d: m for d, m in self._all_cohorts().items() if d != members.digest}
        return People(others).overlap(members)

    def head(self) -> Head:
        """Where the chain ends now; keep it outside the ledger, in the worker's own state."""
        with self._storage():
            return _head(self._rows())

    def verify(self, at_least: Head | None = None) -> Head:
        """Check every row and cohort against the chain and give back its end.

        at_least: an end seen earlier; the chain must still contain it.
        Raises StateError naming the first row that does not hold.
        """
        with self._storage():
            self._cohorts.clear()
            rows = self._checked_rows(at_least)
            self._all_cohorts()
        return _head(rows)

    # --- who shows how much ---

    def _afford(
        self,
        rows: Sequence[Row],
        wanted: Mechanism | None,
        cap_epsilon: float,
        cap_delta: float,
        members: Members | None,
    ) -> None:
        if members is not None:
            self._check_key(rows, members.key)
        histories = self._histories(rows, members)
        total = _worst(_total([*history, wanted], cap_delta) for history in histories)
        if total <= cap_epsilon:  # false for NaN: fail closed
            return
        spent = _worst(_total(history, cap_delta) for history in histories)
        raise BudgetExhausted(
            f"privacy budget: {spent:.3f} spent by the patient who has shown most, "
            f"{max(0.0, cap_epsilon - spent):.3f} left, this update would make it {total:.3f}, the "
            f"site's cap is {cap_epsilon:.3f} (epsilon at delta {cap_delta:g}); stop here, or have "
            "the data protection officer raise caps.max_epsilon"
        )

    def _histories(self, rows: Sequence[Row], members: Members | None) -> list[History]:
        persons = self._persons(members)
        classes = persons.classes(members) or {frozenset()}
        released = [row for row in rows if row.withdrawn is None]
        return [
            [row.mechanism for row in released if row.cohort is None or row.cohort in cohorts]
            for cohorts in classes
        ]

    def _persons(self, members: Members | None) -> People:
        """Persons over all cohorts here and `members`; kept, for the next round asks the same."""
        cohorts = self._all_cohorts()
        if members is not None:
            cohorts = {**cohorts, members.digest: members}
        names = frozenset(cohorts)
        if self._people is None or self._people[0] != names:
            self._people = names, People(cohorts)
        return self._people[1]

    def _check_key(self, rows: Sequence[Row], key: str) -> None:
        known = {members.key for members in self._all_cohorts().values()}
        known |= {str(row.plan) for row in rows if row.withdrawn is not None}
        if known - {key}:
            raise StateError(
                f"{self.path}: the patients in the ledger were fingerprinted with another key; "
                "restore the key file beside it from a backup, because without it nobody knows who "
                "is who"
            )

    # --- the file ---

    def _append(self, rows: Sequence[Row], content: Row) -> Row:
        last = _head(rows)
        content = replace(content, number=last.rows + 1, previous=last.digest)
        row = replace(content, digest=row_digest(content))
        marks = ", ".join("?" * len(COLUMNS))
        self._db.execute(
            f"INSERT INTO ledger ({', '.join(COLUMNS)}) VALUES ({marks})",  # noqa: S608
            to_columns(row),
        )
        return row

    def _keep(self, members: Members) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO cohorts VALUES (?, ?)", (members.digest, members.to_bytes())
        )

    def _all_cohorts(self) -> Mapping[Digest, Members]:
        """Every cohort, read and checked once; content that does not fit its name is found."""
        names = [Digest(name) for (name,) in self._db.execute("SELECT digest FROM cohorts")]
        for name in names:
            if name not in self._cohorts:
                (content,) = self._db.execute(
                    "SELECT content FROM cohorts WHERE digest = ?", (name,)
                ).fetchone()
                self._cohorts[name] = self._read_cohort(name, content)
        return {name: self._cohorts[name] for name in names}

    def _read_cohort(self, name: Digest, content: object) -> Members:
        try:
            if not isinstance(content, bytes) or sha256(content) != name:
                raise ValueError("its digest is another")
            return Members.from_bytes(content)
        except ValueError as err:
            raise StateError(
                f"{self.path}: cohort {name[:16]}… of the privacy ledger was changed ({err}); "
                "restore the ledger from a backup and find out who wrote to it"
            ) from err

    def _check_in_place(self) -> None:
        """What is written to a file that was moved or replaced is lost at the next start."""
        if _file_at(self.path) != self._file:
            raise StateError(
                f"{self.path}: the privacy ledger was moved or replaced while it was in use; "
                "restore the newest copy and start again"
            )

    def _checked_rows(self, at_least: Head | None) -> tuple[Row, ...]:
        rows = self._rows()
        known = {name for (name,) in self._db.execute("SELECT digest FROM cohorts")}
        previous = GENESIS
        for number, row in enumerate(rows, start=1):
            whole = row.cohort is None or row.cohort in known
            chained = (row.number, row.previous, row.digest) == (number, previous, row_digest(row))
            if not (whole and chained):
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
        query = f"SELECT {', '.join(COLUMNS)} FROM ledger ORDER BY number"  # noqa: S608
        found: list[Row] = []
        for columns in self._db.execute(query):
            try:
                found.append(from_columns(columns))
            except (KeyError, TypeError, ValueError) as err:
                raise StateError(
                    f"{self.path}: row {columns[0]} of the privacy ledger is not readable ({err}); "
                    "restore it from a backup"
                ) from err
        return tuple(found)

    def _prepare(self, create: bool) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        # FULL: a charge has reached the disk before the update may leave.
        self._db.execute("PRAGMA synchronous = FULL")
        with self._transaction():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and create:
                statements: Sequence[str] = SCHEMA
            elif 0 < version <= VERSION:
                later = range(version + 1, VERSION + 1)
                statements = [statement for v in later for statement in TO_VERSION[v]]
            else:
                raise StateError(
                    f"{self.path}: not a privacy ledger of version {VERSION} (found {version}); "
                    "check the path or restore it from a backup"
                )
            for statement in statements:
                self._db.execute(statement)
            if version != VERSION:  # else the file stays as it is, to the byte
                self._db.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk ends it by itself
                self._db.execute("ROLLBACK")
            raise

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


def _head(rows: Sequence[Row]) -> Head:
    return Head(len(rows), rows[-1].digest) if rows else Head(0, GENESIS)


def _file_at(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _worst(figures: Iterable[float]) -> float:
    """The largest; NaN, which no comparison finds, if there is one."""
    found = list(figures)
    return math.nan if any(math.isnan(figure) for figure in found) else max(found)


def _total(history: Sequence[Mechanism | None], delta: float) -> float:
    known = [m for m in history if m is not None]
    return math.inf if len(known) < len(history) else epsilon(known, delta)
