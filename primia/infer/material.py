"""The model owner's part of one session on disk: encrypted, read once, gone before it is used.

A file is a row of records, each sealed with AES-256-GCM under a key of this file alone, which
stands in the database and is overwritten there when the session begins. So a copy of the file that
stayed behind somewhere is noise, and a changed, missing or swapped record is refused.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from primia.errors import StateError
from primia.storage.disk import DISK, Disk

RECORD = 1 << 20  # bytes of plain text
_LENGTH = struct.Struct("<I")
_MORE, _LAST, _END = b"\0", b"\1", b"\2"  # of a message; of the file
_SEAL = 1 + 16  # bytes that a record is longer than its text


class MaterialFolder:
    """The files of a store's sessions, named by session."""

    def __init__(self, folder: Path, disk: Disk = DISK) -> None:
        """Make it where it is missing. Raises StateError."""
        self._folder = folder
        self._disk = disk
        try:
            disk.make_folder(folder)
        except OSError as err:
            raise StateError(f"cannot make {folder}: {err.strerror}") from err

    def path(self, session: bytes) -> Path:
        """Where the file of a session is."""
        return self._folder / session.hex()

    def write(self, session: bytes, key: bytes, messages: Iterable[bytes]) -> int:
        """Keep the messages of a session, in order; durable on return. Returns their bytes.

        key: 32 bytes, used for no other file. Raises StateError (disk full and the like).
        """
        path = self.path(session)
        size = 0
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                sealer = _Sealer(key, session)
                for message in messages:
                    size += len(message)
                    for start in range(0, max(1, len(message)), RECORD):
                        part = message[start : start + RECORD]
                        flag = _LAST if start + RECORD >= len(message) else _MORE
                        _put(file, sealer.seal(flag + part))
                _put(file, sealer.seal(_END))
                file.flush()
                os.fsync(file.fileno())
            self._disk.sync_folder(self._folder)
        except OSError as err:
            path.unlink(missing_ok=True)
            raise StateError(
                f"cannot keep correlated randomness in {self._folder}: {err.strerror}; "
                "free space there"
            ) from err
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return size

    def take(self, session: bytes) -> Taken:
        """Open the file of a session that begins."""
        return Taken(self.path(session), session, self._disk)

    def remove(self, sessions: Iterable[bytes]) -> None:
        """Delete the files of these, where there are any."""
        for session in sessions:
            self._disk.remove(self.path(session))

    def keep_only(self, sessions: Iterable[bytes]) -> None:
        """Delete every other file."""
        kept = {session.hex() for session in sessions}
        for name in self._disk.names(self._folder):
            if name not in kept:
                self._disk.remove(self._folder / name)

    def bytes_of(self, sessions: Iterable[bytes]) -> int:
        """What their files take; one that is used and deleted meanwhile takes nothing."""
        total = 0
        for session in sessions:
            with suppress(FileNotFoundError):
                total += self.path(session).stat().st_size
        return total


class Taken:
    """A session's file, to be deleted and then read, once, through the handle that stays open."""

    def __init__(self, path: Path, session: bytes, disk: Disk) -> None:
        """Open the file; one that is missing is told by `messages`, when the session is spent."""
        self._path = path
        self._session = session
        self._disk = disk
        self._file: BinaryIO | None
        try:
            self._file = path.open("rb")
        except OSError:
            self._file = None

    def delete(self) -> None:
        """Whatever happens now, nobody opens it again. Raises StateError."""
        try:
            self._disk.remove(self._path)
            self._disk.sync_folder(self._path.parent)
        except OSError as err:
            raise StateError(
                f"cannot delete {self._path}: {err.strerror}; nothing was asked, mend the disk"
            ) from err

    def messages(self, key: bytes) -> Iterator[bytes]:
        """What `write` was given. Raises StateError for a damaged file."""
        if self._file is None:
            raise _damaged()
        sealer = _Sealer(key, self._session)
        parts: list[bytes] = []
        while True:
            text = sealer.open(self._record(self._file))
            flag, part = text[:1], text[1:]
            if flag == _END:
                return
            parts.append(part)
            if flag == _LAST:
                yield parts[0] if len(parts) == 1 else b"".join(parts)
                parts = []

    def _record(self, file: BinaryIO) -> bytes:
        head = file.read(_LENGTH.size)
        length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
        if not _SEAL <= length <= RECORD + _SEAL:
            raise _damaged()
        record = file.read(length)
        if len(record) != length:
            raise _damaged()
        return record

    def close(self) -> None:
        """Let the file's bytes go."""
        if self._file is not None:
            self._file.close()


class _Sealer:
    """Records under one key, numbered: the key is the file's alone, so a number is a fine nonce."""

    def __init__(self, key: bytes, session: bytes) -> None:
        self._cipher = AESGCM(key)
        self._session = session
        self._number = 0

    def _nonce(self) -> bytes:
        self._number += 1
        return self._number.to_bytes(12, "big")

    def seal(self, text: bytes) -> bytes:
        return self._cipher.encrypt(self._nonce(), text, self._session)

    def open(self, record: bytes) -> bytes:
        try:
            return self._cipher.decrypt(self._nonce(), record, self._session)
        except InvalidTag as err:
            raise _damaged() from err


def _put(file: BinaryIO, record: bytes) -> None:
    file.write(_LENGTH.pack(len(record)))
    file.write(record)


def _damaged() -> StateError:
    return StateError(
        "the material of a session is damaged on disk (missing, cut short, or a flipped bit); it "
        "is discarded and nothing was answered: ask again, and check the disk"
    )
