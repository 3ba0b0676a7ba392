"""A disk that forgets what was not synced, tears what was half written, fills up and fails.

It keeps the promises that `primia.storage.disk.Disk` makes, and none beyond them.
"""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.faultsim.weather import Weather
from tests.faultsim.world import Crash, World, this_task

FULL = 2
_SYNCHRONOUS = re.compile(r"PRAGMA\s+synchronous\s*=\s*(\w+)", re.IGNORECASE)


@dataclass
class _File:
    """sure: bytes that are durable. longer: what may be there instead, until the next sync."""

    data: bytes
    sure: int = 0
    longer: bytes | None = None

    @property
    def synced(self) -> bool:
        return self.sure == len(self.data) and self.longer is None

    def sync(self) -> None:
        self.sure, self.longer = len(self.data), None


class SimDisk:
    """The disk of one party; it outlives the party's processes."""

    def __init__(self, world: World, who: str, weather: Weather) -> None:
        self._world, self._who, self._weather = world, who, weather
        self._rng: Random = world.rng(f"disk {who}")
        self._folders: set[Path] = set()
        self._live: dict[Path, _File] = {}
        self._durable: dict[Path, _File] = {}
        self._unsynced: list[tuple[Path, Callable[[dict[Path, _File]], None]]] = []
        self._images: dict[Path, bytes] = {}
        self._open: dict[Path, SimConnection] = {}
        self._dead = False
        self.full_until = 0.0

    # --- what stores do ----------------------------------------------------------------------

    def make_folder(self, folder: Path) -> None:
        self._folders.add(folder)

    def exists(self, path: Path) -> bool:
        return path in self._live or path in self._folders or self._has_database(path)

    def _has_database(self, path: Path) -> bool:
        return path in self._images or path in self._open

    def names(self, folder: Path) -> list[str]:
        return sorted(p.name for p in self._live if p.parent == folder)

    def read(self, path: Path, offset: int = 0) -> bytes:
        self._point("read", path)
        return self._file(path).data[offset:]

    def _file(self, path: Path) -> _File:
        if path not in self._live:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return self._live[path]

    def write(self, path: Path, data: bytes | bytearray | memoryview) -> None:
        self._point("write", path)
        if path in self._live:
            raise FileExistsError(errno.EEXIST, "File exists")
        file = self._new_file(path, data)
        try:
            self._point("fsync", path, full=True)
        except OSError:
            file.data = self._part(file.data)
            raise
        file.sync()

    def append(self, path: Path, data: bytes) -> None:
        self._point("append", path)
        file = self._live[path] if path in self._live else self._new_file(path, b"")
        before = file.data
        file.data = before + data
        try:
            self._point("fsync", path, full=True)
        except OSError:
            file.data = before + self._part(data)
            raise
        file.sync()

    def truncate(self, path: Path, size: int) -> None:
        self._point("truncate", path)
        file = self._file(path)
        file.longer = file.data
        file.data, file.sure = file.data[:size], min(file.sure, size)

    @contextmanager
    def locked(self, folder: Path) -> Iterator[None]:
        yield  # a party has one process

    def _part(self, data: bytes) -> bytes:
        """As much of it as came to the disk."""
        return data[: int((len(data) + 1) * self._rng.random())]

    def rename(self, old: Path, new: Path) -> None:
        self._point("rename", new)
        self._change(new.parent, lambda files: files.__setitem__(new, files.pop(old)))

    def remove(self, path: Path) -> None:
        self._point("remove", path)
        if path in self._live:
            self._change(path.parent, lambda files: files.pop(path, None) and None)

    def sync_folder(self, folder: Path) -> None:
        self._point("sync folder", folder)
        for where, change in self._unsynced:
            if where == folder:
                change(self._durable)
        self._unsynced = [u for u in self._unsynced if u[0] != folder]

    def connect(self, path: Path, timeout_s: float, *, one_thread: bool) -> sqlite3.Connection:
        self._point("connect", path)
        link = sqlite3.connect(":memory:", isolation_level=None, factory=SimConnection)
        if path in self._open:
            self._images[path] = self._open.pop(path).left_behind(self._rng, power=False)
        if path in self._images:
            link.deserialize(self._images[path])
        link.attach(self, path)
        self._open[path] = link
        return link

    def _new_file(self, path: Path, data: bytes | bytearray | memoryview) -> _File:
        file = _File(bytes(data))
        self._change(path.parent, lambda files: files.__setitem__(path, file))
        return file

    def _change(self, folder: Path, change: Callable[[dict[Path, _File]], None]) -> None:
        change(self._live)
        self._unsynced.append((folder, change))

    # --- what happens to it ------------------------------------------------------------------

    def _point(self, what: str, path: Path, *, full: bool = False) -> None:
        """A place where the process may die or the disk may fail."""
        if self._dead:
            raise Crash
        name = path.name.split(".part-")[0][:12]
        changed = what not in {"read", "connect"}
        if self._weather.dies_at_disk(self._rng, self._who, changed=changed):
            self._world.inject("crash at a disk operation", self._who, f"{what} {name}")
            self._dead = True
            raise Crash
        if self._world.now < self.full_until and what in {"write", "append", "fsync", "connect"}:
            self._world.inject("disk full", self._who, f"{what} {name}")
            raise OSError(errno.ENOSPC, "No space left on device")
        if self._weather.fails_at_disk(self._rng) and (full or what != "connect"):
            self._world.inject("i/o error", self._who, f"{what} {name}")
            raise OSError(errno.EIO, "Input/output error")
        slow = self._weather.slow_disk(self._rng)
        task = this_task()
        if slow and task is not None and what in {"write", "sync folder"}:
            self._world.inject("slow disk", self._who, what)
            task.sleep(slow)

    def crash(self) -> None:
        """The process is gone, and perhaps the power: then all that was not synced is in doubt."""
        power = self._rng.random() < self._weather.power_loss
        self._world.inject("power loss" if power else "kill", self._who)
        self._let_go(power=power)

    def close(self) -> None:
        """The process has ended by itself."""
        self._let_go(power=False)

    def _let_go(self, *, power: bool) -> None:
        for path, link in self._open.items():
            self._images[path] = link.left_behind(self._rng, power=power)
        self._open.clear()
        if power:
            kept = self._rng.randrange(len(self._unsynced) + 1)
            for _, change in self._unsynced[:kept]:
                change(self._durable)
            for file in self._durable.values():
                if not file.synced:
                    file.data = self._torn(file)
                    file.sync()
            self._live = dict(self._durable)
        else:
            for _, change in self._unsynced:
                change(self._durable)
        self._unsynced.clear()
        self._dead = True

    def use(self, weather: Weather) -> None:
        """Have these odds from now on."""
        self._weather = weather

    def revive(self) -> None:
        """A new process may use it."""
        self._dead = False

    def _torn(self, file: _File) -> bytes:
        """What is left of a file that was not synced: nothing of it is older than what is sure."""
        self._world.injected["torn file"] += 1
        data = file.data
        if file.longer is not None and self._rng.random() < 0.5:
            data = file.longer
        tail = self._part(data[file.sure :])
        missing = len(data) - file.sure - len(tail)
        return data[: file.sure] + tail + (bytes(missing) if self._rng.random() < 0.5 else b"")

    # --- for the contract --------------------------------------------------------------------

    def file_after_the_worst(self, path: Path) -> bytes | None:
        """What a power cut now would surely leave of a file."""
        file = self._durable.get(path)
        return file.data if file is not None and file.synced else None

    def rows_after_the_worst(self, path: Path, query: str) -> list[tuple[Any, ...]]:
        """What `query` finds in what a power cut now would surely leave of a database."""
        link = self._open.get(path)
        if link is not None and not link.in_doubt:
            return sqlite3.Connection.execute(link, query).fetchall()
        copy = sqlite3.connect(":memory:")
        copy.deserialize(self._images[path] if link is None else link.surely())
        try:
            return copy.execute(query).fetchall()
        finally:
            copy.close()

    def commits(self, path: Path) -> int:
        """How often the open connection has committed a change."""
        link = self._open.get(path)
        return 0 if link is None else link.commits

    def dies_in_transaction(self, what: str, path: Path, *, changed: bool) -> None:
        """A crash point of a database; raises Crash."""
        if self._dead:
            raise Crash
        if self._weather.dies_at_disk(self._rng, self._who, changed=changed):
            self._world.inject("crash at a disk operation", self._who, f"{what} {path.name}")
            self._dead = True
            raise Crash

    def error_in_transaction(self, what: str, path: Path) -> sqlite3.OperationalError | None:
        """What SQLite raises now, if the disk is full or fails."""
        kind = None
        if self._world.now < self.full_until:
            kind = ("SQLITE_FULL", "database or disk is full", "disk full")
        elif self._weather.fails_at_disk(self._rng):
            kind = ("SQLITE_IOERR_FSYNC", "disk I/O error", "i/o error")
        if kind is None:
            return None
        self._world.inject(kind[2], self._who, f"{what} {path.name}")
        error = sqlite3.OperationalError(kind[1])
        error.sqlite_errorname = kind[0]  # type: ignore[misc]
        return error

    def half_committed(self) -> bool:
        """Whether a COMMIT that failed is found to be there after a restart."""
        return self._rng.random() < 0.5


class SimConnection(sqlite3.Connection):
    """SQLite in memory, with the promises of WAL and `synchronous` as it was set."""

    def attach(self, disk: SimDisk, path: Path) -> None:
        """Belong to a file."""
        self._disk, self._path = disk, path
        self._synchronous = FULL
        self._may_be_left: list[bytes] = []  # commits in doubt, the oldest image first
        self._ghost: bytes | None = None  # of a COMMIT that failed and may be there after all
        self._doom: sqlite3.OperationalError | None = None
        self._before = b""
        self._closed = False
        self._changes = 0
        self.commits = 0

    @property
    def in_doubt(self) -> bool:
        """Whether a power cut now could leave something else than what it shows."""
        return self.in_transaction or bool(self._may_be_left)

    def close(self) -> None:
        """What is in doubt stays so: the disk lets go of it with the process."""
        self._closed = True

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if self._closed:
            raise sqlite3.ProgrammingError("Cannot operate on a closed database.")
        verb = sql.lstrip()[:6].upper().rstrip("; ")
        if verb == "BEGIN":
            self._begin()
        elif verb == "COMMIT":
            return self._commit()
        elif verb == "PRAGMA":
            found = _SYNCHRONOUS.match(sql.strip())
            if found is not None:
                self._synchronous = {"OFF": 0, "NORMAL": 1}.get(found[1].upper(), FULL)
        elif self.in_transaction and verb in {"INSERT", "UPDATE", "DELETE"}:
            self._disk.dies_in_transaction("in a transaction on", self._path, changed=True)
        return super().execute(sql, parameters)

    def _begin(self) -> None:
        self._disk.dies_in_transaction("before BEGIN on", self._path, changed=False)
        self._changes = self.total_changes
        self._doom = self._disk.error_in_transaction("COMMIT on", self._path)
        if self._doom is not None:
            self._before = self.serialize()
        if self._synchronous < FULL and not self._may_be_left:
            self._may_be_left = [self.serialize()]

    def _commit(self) -> sqlite3.Cursor:
        changed = self.total_changes != self._changes
        self._disk.dies_in_transaction("before COMMIT on", self._path, changed=changed)
        if self._doom is not None:
            error, self._doom = self._doom, None
            if self._disk.half_committed():
                # With the open changes; never deserialised into this connection, whose prepared
                # statements would go on with pages that are gone (seen as a bus error).
                self._ghost = self.serialize()
            raise error
        done = super().execute("COMMIT")
        self.commits += changed
        self._ghost = None
        if self._synchronous < FULL:
            self._may_be_left.append(self.serialize())
        else:
            self._may_be_left.clear()
        self._disk.dies_in_transaction("after COMMIT on", self._path, changed=changed)
        return done

    def left_behind(self, rng: Random, *, power: bool) -> bytes:
        """The file once the process is gone."""
        if self.in_transaction:
            super().execute("ROLLBACK")
        left = self.serialize()
        if self._ghost is not None and rng.random() < 0.5:
            left = self._ghost
        elif power and self._may_be_left:
            left = rng.choice(self._may_be_left)
        super().close()
        return left

    def surely(self) -> bytes:
        """The oldest state that a power cut now could leave."""
        if self._may_be_left:
            return self._may_be_left[0]
        return self._before if self.in_transaction and self._before else self.serialize()
