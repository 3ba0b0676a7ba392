"""A disk to look at and not to touch: stores open on it as ever, and nothing they do stays.

A command that diagnoses a folder may run beside the daemon that works in it, and must neither wait
for it nor change a byte. So a database is copied into memory, changes of its schema included, and
what is appended to a file is kept in memory.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from primia.storage.disk import LocalDisk

_TRIES = 5


class Snapshot(LocalDisk):
    """The file system of this machine; each file as it was when it was first asked for."""

    def __init__(self) -> None:
        self._files: dict[Path, bytearray] = {}

    def make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            raise _refused(folder)

    def read(self, path: Path, offset: int = 0) -> bytes:
        if path not in self._files:
            self._files[path] = bytearray(super().read(path))
        return bytes(self._files[path][offset:])

    def append(self, path: Path, data: bytes) -> None:
        if path not in self._files and super().exists(path):
            self.read(path)
        self._files.setdefault(path, bytearray()).extend(data)

    def truncate(self, path: Path, size: int) -> None:
        self.read(path)
        del self._files[path][size:]

    @contextmanager
    def locked(self, folder: Path) -> Iterator[None]:  # noqa: ARG002  (nobody else sees our writes)
        yield

    def write(self, path: Path, data: bytes | bytearray | memoryview) -> None:  # noqa: ARG002
        raise _refused(path)

    def rename(self, old: Path, new: Path) -> None:  # noqa: ARG002
        raise _refused(new)

    def remove(self, path: Path) -> None:
        raise _refused(path)

    def sync_folder(self, folder: Path) -> None: ...

    def connect(self, path: Path, timeout_s: float, *, one_thread: bool) -> sqlite3.Connection:
        for _ in range(_TRIES):
            copy = sqlite3.connect(
                ":memory:", isolation_level=None, check_same_thread=one_thread, timeout=timeout_s
            )
            if not path.exists() or _copied(path, copy, timeout_s):
                return copy
            copy.close()
        raise sqlite3.OperationalError(f"{path} changed whenever it was read")


def _copied(path: Path, copy: sqlite3.Connection, timeout_s: float) -> bool:
    """Whether the database was copied whole; False when a writer came in between.

    Without a write-ahead log nobody has it open. SQLite would make one to read it, so it is told
    that the file does not change, and we see for ourselves whether that was so.
    """
    quiet = not _has_log(path)
    how = "mode=ro&immutable=1" if quiet else "mode=ro"
    before = path.stat()
    where = f"file:{quote(os.fspath(path.resolve()))}?{how}"
    with closing(sqlite3.connect(where, uri=True, timeout=timeout_s)) as source:
        source.backup(copy)
    after = path.stat()
    unchanged = (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
    return not quiet or (unchanged and not _has_log(path))


def _has_log(path: Path) -> bool:
    try:
        return path.with_name(path.name + "-wal").stat().st_size > 0
    except OSError:
        return False


def _refused(path: Path) -> OSError:
    return OSError(errno.EROFS, "only looked at, not written", os.fspath(path))
