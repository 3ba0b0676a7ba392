"""The disk as the stores see it: few operations, each with what it promises after a power cut.

Stores take a `Disk`, so that what they promise can be tried on one that fails, tears writes and
forgets what was not synced.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol


class Disk(Protocol):
    """Files by path, and databases. Methods raise OSError, and `connect` sqlite3.Error, too."""

    def make_folder(self, folder: Path) -> None:
        """Make it, mode 0700, with the folders above it, if it is missing."""

    def exists(self, path: Path) -> bool:
        """Whether a file or folder of this name is there."""

    def names(self, folder: Path) -> list[str]:
        """What a folder holds, sorted."""

    def read(self, path: Path, offset: int = 0) -> bytes:
        """A file from `offset` to its end; nothing where it is shorter."""

    def write(self, path: Path, data: bytes | bytearray | memoryview) -> None:
        """Make a new file, mode 0600. On return its bytes are durable, its name is not yet."""

    def append(self, path: Path, data: bytes) -> None:
        """Add to a file's end, made with mode 0600 if missing. On return its bytes are durable, a
        new name is not yet; after an error or a crash any part of `data` may be there."""

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file off at `size` bytes; durable with the next `append`."""

    def locked(self, folder: Path) -> AbstractContextManager[None]:
        """Held by one process (and one holder in it) at a time, and let go when it dies."""

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name, in place of what had it; durable after `sync_folder`."""

    def remove(self, path: Path) -> None:
        """Delete a file if it is there; durable after `sync_folder`."""

    def sync_folder(self, folder: Path) -> None:
        """On return the names in `folder` are durable."""

    def connect(self, path: Path, timeout_s: float, *, one_thread: bool) -> sqlite3.Connection:
        """Open a database, made with mode 0600 if missing. Nothing begins or ends a transaction
        but what is executed. one_thread: only this thread may use it; else any, one at a time."""


class LocalDisk:
    """The file system of this machine."""

    def make_folder(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def exists(self, path: Path) -> bool:
        return path.exists()

    def names(self, folder: Path) -> list[str]:
        return sorted(os.listdir(folder))

    def read(self, path: Path, offset: int = 0) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read()

    def write(self, path: Path, data: bytes | bytearray | memoryview) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def append(self, path: Path, data: bytes) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def truncate(self, path: Path, size: int) -> None:
        os.truncate(path, size)

    @contextmanager
    def locked(self, folder: Path) -> Iterator[None]:
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def connect(self, path: Path, timeout_s: float, *, one_thread: bool) -> sqlite3.Connection:
        path.touch(mode=0o600)  # SQLite would take the umask's mode, for WAL files too
        return sqlite3.connect(
            path, timeout=timeout_s, isolation_level=None, check_same_thread=one_thread
        )


DISK: Disk = LocalDisk()
"""What every store uses unless it is given another one."""
