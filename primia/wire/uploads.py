"""Spooling uploads: resumable, bounded, and never two writers in one file.

The spool outlives a broken link, not a broken coordinator: that opens the round as a new attempt,
under other masks. So nothing here waits for the disk.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from primia.errors import PeerError, StateError, Unreachable
from primia.identity.certificate import Identity
from primia.types import Digest
from primia.wire.channel import CHUNK
from primia.wire.handler import FederationHandler, UploadKey, UploadSlot


@dataclass(frozen=True)
class UploadHeader:
    """What a site announces before its bytes; `length` and `sha256` are of the whole upload."""

    key: UploadKey
    length: int
    sha256: Digest
    offset: int


@dataclass
class _Writer:
    """Who writes a spool file now; a newer stream takes it over from one whose link is dead."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    turn: int = 0


class Uploads:
    """Receives upload streams for a handler."""

    def __init__(self, handler: FederationHandler) -> None:
        self._handler = handler
        self._lock = threading.Lock()
        self._writers: dict[Path, _Writer] = {}

    def status(self, identity: Identity, key: UploadKey) -> tuple[int, bool]:
        """(bytes received, complete)."""
        slot = self._handler.upload_slot(identity, key)
        return (0, True) if slot.complete else (_size(slot.path), False)

    def receive(self, identity: Identity, header: UploadHeader, chunks: Iterable[bytes]) -> None:
        """Append one stream's chunks; when all bytes are there and match, hand the file over.

        A stream that ends early leaves what arrived, for the next one to go on from.
        Raises PeerError (too long, more than announced), Unreachable (go on from elsewhere,
        or the bytes do not match: send again), StateError (disk).
        """
        slot = self._handler.upload_slot(identity, header.key)
        writer = self._writer(slot.path)
        try:
            with writer.lock:
                slot = self._handler.upload_slot(identity, header.key)  # may be complete by now
                if slot.complete:
                    return
                file = _open_at(slot, header)
                writer.turn += 1
                turn = writer.turn
            with file:
                found = self._append(identity, header, chunks, file, writer, turn)
                with writer.lock:
                    _check_turn(writer, turn)
                    self._finish(identity, header, slot.path, found)
        except OSError as err:
            raise StateError(f"cannot spool an upload to {slot.path}: {err.strerror}") from err

    def _append(
        self,
        identity: Identity,
        header: UploadHeader,
        chunks: Iterable[bytes],
        file: BinaryIO,
        writer: _Writer,
        turn: int,
    ) -> str:
        """Write the chunks behind the first `offset` bytes; the SHA-256 of all of it."""
        hasher = _hash_first(file, header.offset)
        received = header.offset
        for chunk in chunks:
            received += len(chunk)
            if received > header.length:
                raise PeerError(f"an upload of more than the {header.length} bytes announced")
            with writer.lock:
                _check_turn(writer, turn)
                file.write(chunk)
                file.flush()
            hasher.update(chunk)
            self._handler.upload_progress(identity, header.key, received, header.length)
        if received < header.length:
            raise Unreachable(f"the upload stopped at {received} of {header.length} bytes")
        return hasher.hexdigest()

    def _finish(self, identity: Identity, header: UploadHeader, path: Path, found: str) -> None:
        if found != header.sha256:
            path.unlink()  # which part is wrong cannot be known
            raise Unreachable("the bytes that arrived do not match their SHA-256; send them again")
        self._handler.upload_complete(identity, header.key, path, header.sha256)
        with self._lock:
            self._writers.pop(path, None)

    def _writer(self, path: Path) -> _Writer:
        with self._lock:
            return self._writers.setdefault(path, _Writer())


def _open_at(slot: UploadSlot, header: UploadHeader) -> BinaryIO:
    if not 0 < header.length <= slot.limit:
        raise PeerError(f"an upload of {header.length} bytes; the plan allows 1 to {slot.limit}")
    have = _size(slot.path)
    if header.offset > min(have, header.length):
        raise Unreachable(f"{have} bytes are here, not {header.offset}; ask for the status first")
    handle = os.open(slot.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    file = os.fdopen(handle, "r+b")
    if have > header.offset:
        # Not otherwise: ext4 takes a truncation to nothing for "replace this file", and then
        # writes all of it to disk when it is closed (measured: half of the whole upload).
        file.truncate(header.offset)
    return file


def _hash_first(file: BinaryIO, size: int) -> hashlib._Hash:
    """SHA-256 of the first `size` bytes, leaving the file positioned behind them."""
    hasher = hashlib.sha256()
    file.seek(0)
    for start in range(0, size, CHUNK):
        hasher.update(file.read(min(CHUNK, size - start)))
    file.seek(size)
    return hasher


def _check_turn(writer: _Writer, turn: int) -> None:
    if writer.turn != turn:
        raise Unreachable("a newer stream of the same upload took over")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as err:
        raise StateError(f"cannot look at {path}: {err.strerror}; check the disk") from err
