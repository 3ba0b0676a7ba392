"""The audit log: one JSON line for each act that counts, chained, append-only, durable.

Each line holds the SHA-256 of the line before and its own, so a missing, edited or reordered line
is found with its number; that the end was cut off is found by a `Head` kept elsewhere. Several
processes may append: a command beside the running daemon takes the same lock.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from primia.errors import StateError
from primia.events import AUDIT
from primia.storage.disk import DISK, Disk
from primia.types import Digest, sha256

FILE = "audit.jsonl"
GENESIS = Digest("0" * 64)
_DOMAIN = b"primia audit log v1\n"
_MOST_TEXT = 1000  # characters of one value; a message may quote what a peer sent

Value = str | int | float | bool | None | Sequence[str]


@dataclass(frozen=True)
class Head:
    """Where a chain ends: how many lines, and the digest of the last one."""

    lines: int
    digest: Digest


EMPTY = Head(0, GENESIS)


@dataclass(frozen=True)
class Line:
    """One act, as written."""

    number: int
    time: str
    event: str
    fields: Mapping[str, Any]
    previous: Digest
    digest: Digest


class AuditLog:
    """An append-only file of lines. Safe for several threads and processes.

    Raises StateError when the file cannot be used, or does not hold (with the line's number).
    """

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.time, disk: Disk = DISK
    ) -> None:
        """Nothing is read or made before the first use."""
        self.path = path
        self._clock = clock
        self._disk = disk
        self._lock = threading.Lock()
        self._size = 0  # bytes of the lines below
        self._digests: list[Digest] = []
        self._last: dict[str, Line] = {}

    def append(self, event: str, **fields: Value) -> Head:
        """Write one line; it is durable on return, or StateError is raised and none was written.

        The event and its fields stand in the catalogue (`primia.events`): anything else is a bug.
        """
        known = AUDIT[event]
        if set(fields) != set(known.fields):
            raise ValueError(f"{event} has the fields {known.fields}, not {tuple(fields)}")
        with self._using(), self._disk.locked(self.path.parent):
            torn = self._catch_up()
            if torn:
                self._disk.truncate(self.path, self._size)
                self._write("log_mended", {"bytes": torn})
            self._write(event, {name: _plain(fields[name]) for name in known.fields})
            return self._head()

    def head(self) -> Head:
        """Where the chain ends now, lines of other processes included."""
        return self.verify()

    def verify(self, at_least: Head = EMPTY) -> Head:
        """Check what was written since the last look and give back the end.

        at_least: an end seen earlier; the chain must still hold it. To check every byte of the
        file anew, use a new object.
        """
        with self._using():
            self._catch_up()
            if not self._holds(at_least):
                raise StateError(
                    f"{self.path}: the audit log is older than what was seen of it (line "
                    f"{at_least.lines} is missing or another one); restore the newest copy"
                )
            return self._head()

    def holds(self, head: Head) -> bool:
        """Whether the chain went through `head`."""
        with self._using():
            self._catch_up()
            return self._holds(head)

    def last(self, event: str) -> Line | None:
        """The newest line of an event."""
        with self._using():
            self._catch_up()
            return self._last.get(event)

    def _head(self) -> Head:
        return Head(len(self._digests), self._digests[-1]) if self._digests else EMPTY

    def _holds(self, head: Head) -> bool:
        if head.lines == 0:
            return head == EMPTY
        return len(self._digests) >= head.lines and self._digests[head.lines - 1] == head.digest

    @contextmanager
    def _using(self) -> Iterator[None]:
        """One thread at a time; what the disk says becomes a StateError."""
        with self._lock:
            try:
                yield
            except OSError as err:
                raise StateError(
                    f"cannot use the audit log {self.path}: {err.strerror}; free space or mend the "
                    "disk, nothing counts that is not written here"
                ) from err

    def _catch_up(self) -> int:
        """Take in the lines that are new; returns the bytes of half a line at the end."""
        if self._size == 0 and not self._disk.exists(self.path):
            return 0
        end = max(0, self._size - 1)  # where the last line feed stands that we know of
        data = self._disk.read(self.path, end) if self._disk.exists(self.path) else b""
        if self._size and not data.startswith(b"\n"):
            raise StateError(
                f"{self.path}: the audit log became shorter while it was in use; restore the "
                "newest copy and find out who wrote to it"
            )
        whole, torn = _whole_lines(data[self._size - end :])
        for raw in whole:
            self._take(_read(raw, self._head(), self.path), len(raw) + 1)
        return torn

    def _take(self, line: Line, size: int) -> None:
        self._digests.append(line.digest)
        self._last[line.event] = line
        self._size += size

    def _write(self, event: str, fields: Mapping[str, Any]) -> None:
        time_ = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        line = _chained(self._head(), time_, event, fields)
        data = _encode(line) + b"\n"
        try:
            self._disk.append(self.path, data)
            if self._size == 0:
                self._disk.sync_folder(self.path.parent)
        except OSError:
            if self._disk.exists(self.path):
                self._disk.truncate(self.path, self._size)
            raise
        self._take(line, len(data))


def read(path: Path) -> tuple[list[Line], int]:
    """Every line of a log, checked, and the bytes of half a line at its end. Raises StateError."""
    try:
        data = path.read_bytes()
    except OSError as err:
        raise StateError(f"cannot read the audit log {path}: {err.strerror}") from err
    whole, torn = _whole_lines(data)
    lines: list[Line] = []
    head = EMPTY
    for raw in whole:
        lines.append(_read(raw, head, path))
        head = Head(len(lines), lines[-1].digest)
    return lines, torn


def _whole_lines(data: bytes) -> tuple[list[bytes], int]:
    """The lines that were written whole. A crash can leave only the last one otherwise.

    It then lacks its end, or a part of it was not on the disk yet and is no JSON.
    """
    lines = data.split(b"\n")
    torn = len(lines.pop())
    if lines and not torn and not _is_object(lines[-1]):
        torn = len(lines.pop()) + 1
    return lines, torn


def _is_object(raw: bytes) -> bool:
    try:
        return isinstance(json.loads(raw), dict)
    except (ValueError, RecursionError):
        return False


def _read(raw: bytes, before: Head, path: Path) -> Line:
    """One line that must follow `before`, in exactly the form in which it is written."""
    number = before.lines + 1
    try:
        found = json.loads(raw)
        line = _chained(before, str(found["time"]), str(found["event"]), dict(found["fields"]))
        holds = _encode(line) == raw
    except (ValueError, TypeError, KeyError, RecursionError):
        holds = False
    if not holds:
        raise StateError(
            f"{path}: the audit log was changed at line {number} (edited, removed or out of "
            "order); restore it from a backup and find out who wrote to it"
        )
    return line


def _chained(before: Head, time_: str, event: str, fields: Mapping[str, Any]) -> Line:
    content = [before.lines + 1, time_, event, fields, before.digest]
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    digest = sha256(_DOMAIN + text.encode())
    return Line(before.lines + 1, time_, event, fields, before.digest, digest)


def _encode(line: Line) -> bytes:
    """ASCII alone: control characters of whatever a message quotes are escaped."""
    return json.dumps(
        {
            "number": line.number, "time": line.time, "event": line.event,
            "fields": line.fields, "previous": line.previous, "digest": line.digest,
        },
        separators=(",", ":"), allow_nan=False,
    ).encode()  # fmt: skip


def _plain(value: Value) -> Any:
    """A value as JSON gives it back."""
    if isinstance(value, str):
        return str(value)[:_MOST_TEXT]
    if value is None or isinstance(value, bool | int | float):
        return value
    return [str(item)[:_MOST_TEXT] for item in value]
