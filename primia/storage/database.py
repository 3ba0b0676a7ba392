"""SQLite the way a ledger needs it: WAL, FULL, one writer, versions that only go up."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from primia.errors import StateError
from primia.storage.disk import DISK, Disk

BUSY_S = 10.0


class Database:
    """One connection, used by one thread at a time.

    `synchronous=FULL` because NORMAL may lose the last commits at a power cut, and a charge or a
    committed round must not come undone. What raises inside `transaction` is rolled back whole.
    """

    def __init__(
        self,
        path: Path,
        migrations: Sequence[str],
        disk: Disk = DISK,
        secret: Sequence[str] = (),
    ) -> None:
        """Open or make the database at `path` and bring it to version len(migrations).

        migrations: SQL scripts; number i (from 0) takes version i to i + 1, in one transaction.
        secret: tables that stay out of the copy that is made before a migration, which nobody
        deletes.
        Raises StateError: damaged, unwritable, or written by a newer primia.
        """
        self.path = path
        self._secret = secret
        self._disk = disk
        self._lock = threading.RLock()
        self._open = False
        try:
            self._link = disk.connect(path, BUSY_S, one_thread=False)
            self._link.row_factory = sqlite3.Row
            self._set_up(migrations)
        except OSError as err:
            raise StateError(
                f"cannot write the database {path}: {err.strerror}; check the folder and disk"
            ) from err
        except sqlite3.DatabaseError as err:
            raise self._state_error(err) from err

    def _set_up(self, migrations: Sequence[str]) -> None:
        try:
            self._link.execute("PRAGMA journal_mode=WAL")
            self._link.execute("PRAGMA synchronous=FULL")
            self._link.execute("PRAGMA foreign_keys=ON")
            self._link.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten
            self._migrate(migrations)
        except BaseException:
            self._link.close()  # a half-done migration would keep the file locked
            raise

    def _migrate(self, migrations: Sequence[str]) -> None:
        (version,) = self._link.execute("PRAGMA user_version").fetchone()
        if version > len(migrations):
            raise StateError(
                f"{self.path} was written by a newer primia (schema {version}, this one knows "
                f"{len(migrations)}); install that version again"
            )
        if 0 < version < len(migrations):
            self._keep_beside(version)
        for number in range(version, len(migrations)):
            self._link.executescript(
                f"BEGIN IMMEDIATE;\n{migrations[number]};\n"
                f"PRAGMA user_version = {number + 1};\nCOMMIT;"
            )

    def _keep_beside(self, version: int) -> None:
        """A copy of the file as the older primia left it, for who has to go back to that one."""
        copy = self.path.with_name(f"{self.path.name}.schema-{version}")
        with closing(self._disk.connect(copy, BUSY_S, one_thread=False)) as target:
            self._link.backup(target)
            target.execute("PRAGMA secure_delete=ON")
            known = {row[0] for row in target.execute("SELECT name FROM sqlite_master")}
            for table in known.intersection(self._secret):
                target.execute(f"DELETE FROM {table}")  # noqa: S608  (a name of our own code)
            target.commit()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, durable when the block has ended; one thread at a time.

        Not to be nested. Raises StateError for faults of disk and file; a broken constraint
        (sqlite3.IntegrityError) passes through, for the caller alone knows what it means.
        """
        with self._lock:
            if self._open:
                raise RuntimeError("transaction inside a transaction")
            self._open = True
            try:
                self._link.execute("BEGIN IMMEDIATE")
                yield self._link
                self._link.execute("COMMIT")
            except sqlite3.IntegrityError:
                raise
            except sqlite3.DatabaseError as err:
                raise self._state_error(err) from err
            finally:
                self._open = False
                if self._link.in_transaction:  # the block raised, or COMMIT did
                    self._link.execute("ROLLBACK")

    def scrub(self) -> None:
        """Overwrite in the file what was deleted, unless another process reads it just now.

        Deleted rows stand in the write-ahead log until it is folded into the file.
        """
        with self._lock:
            try:
                self._link.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.DatabaseError as err:
                raise self._state_error(err) from err

    def close(self) -> None:
        """Close the file; what was committed stays."""
        with self._lock:
            self._link.close()

    def _state_error(self, err: sqlite3.DatabaseError) -> StateError | sqlite3.DatabaseError:
        """A fault of the disk or the file as StateError; a fault in our SQL as it is, loudly."""
        name = getattr(err, "sqlite_errorname", "")
        for prefix, remedy in _REMEDIES.items():
            if name.startswith(prefix):
                return StateError(
                    f"{self.path}: {err} ({name}); {remedy}; what was committed is kept"
                )
        return err


_REMEDIES = {
    "SQLITE_FULL": "free space on the disk",
    "SQLITE_IOERR": "check the disk",
    "SQLITE_READONLY": "make the file writable for this user",
    "SQLITE_CANTOPEN": "check the folder's owner and mode",
    "SQLITE_PERM": "check the folder's owner and mode",
    "SQLITE_BUSY": "another program holds the file: stop it",
    "SQLITE_LOCKED": "another program holds the file: stop it",
    "SQLITE_CORRUPT": "the file is damaged: restore a backup",
    "SQLITE_NOTADB": "this is no database: restore a backup",
}
