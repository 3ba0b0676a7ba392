"""The state folder: private to its user, and to one process at a time."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType

from primia.errors import StateError

LOCK_FILE = "lock"


class StateFolder:
    """A folder of mode 0700 that this process holds until `close` (or its end, however it ends).

    The lock is the kernel's (`flock`), so a killed holder leaves nothing to clean up; the pid in
    the file is for the message alone.
    """

    def __init__(self, path: Path) -> None:
        """Make the folder if it is missing and take the lock.

        Raises StateError: open to others, not writable, or held by another process.
        """
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError as err:
            raise StateError(
                f"cannot make the state folder {path}: {err.strerror}; choose another or mend it"
            ) from err
        if mode & 0o077:
            raise StateError(
                f"the state folder {path} has mode {mode:04o} and is open to others; "
                f"run: chmod 700 {path}"
            )
        self._lock = self._take_lock()

    def _take_lock(self) -> int:
        lock = self.path / LOCK_FILE
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as err:
            raise StateError(
                f"cannot write in the state folder {self.path}: {err.strerror}; "
                "check its owner and the disk"
            ) from err
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as err:
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(handle)
            raise StateError(
                f"the state folder {self.path} is in use by process {holder}; "
                "stop that one, or give this one a folder of its own"
            ) from err
        except OSError as err:
            os.close(handle)
            raise StateError(f"cannot lock {lock}: {err.strerror}; use a local disk") from err
        return handle

    def close(self) -> None:
        """Let go of the folder; twice is harmless."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> StateFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
