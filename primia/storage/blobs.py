"""Blobs as files named by their SHA-256: written whole or not at all, checked when read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from primia.errors import StateError
from primia.storage.disk import DISK, Disk
from primia.types import Digest, sha256


class Blobs:
    """A folder of blobs. The caller's database row is the commit point, a file alone is none.

    Writing the same bytes twice is harmless. Safe to use from several threads of one process.
    """

    def __init__(self, folder: Path, disk: Disk = DISK) -> None:
        """Open `folder`, made with mode 0700 if missing. Raises StateError."""
        self.folder = folder
        self._disk = disk
        try:
            disk.make_folder(folder)
        except OSError as err:
            raise StateError(f"cannot make {folder}: {err.strerror}; check the disk") from err

    def path(self, digest: Digest) -> Path:
        """Where the blob is or would be."""
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ValueError(f"{digest!r} is not a SHA-256 in hexadecimal")
        return self.folder / digest

    def __contains__(self, digest: Digest) -> bool:
        return self._disk.exists(self.path(digest))

    def put(self, data: bytes | bytearray | memoryview) -> Digest:
        """Store `data`, durable on return. Raises StateError (disk full and the like)."""
        digest = sha256(data)
        part = self.folder / f"{digest}.part-{os.urandom(4).hex()}"
        try:
            try:
                self._disk.write(part, data)
                self._disk.rename(part, self.path(digest))
            except OSError:
                self._disk.remove(part)
                raise
            self._disk.sync_folder(self.folder)
        except OSError as err:
            raise StateError(
                f"cannot store {len(data)} bytes in {self.folder}: {err.strerror}; "
                "free space or mend the disk, what was stored before is intact"
            ) from err
        return digest

    def get(self, digest: Digest) -> bytes:
        """Read a blob whole. Raises StateError when it is missing or its bytes have changed."""
        path = self.path(digest)
        try:
            data = self._disk.read(path)
        except OSError as err:
            raise StateError(f"blob {digest} cannot be read from {path}: {err.strerror}") from err
        if sha256(data) != digest:
            raise StateError(
                f"blob {digest} in {path} is damaged: its digest is {sha256(data)}; "
                "restore it from a backup"
            )
        return data

    def remove(self, digest: Digest) -> None:
        """Delete a blob if it is there. Raises StateError."""
        try:
            self._disk.remove(self.path(digest))
        except OSError as err:
            raise StateError(f"cannot delete blob {digest}: {err.strerror}") from err

    def __iter__(self) -> Iterator[Digest]:
        """The digests that have a file; leftovers of interrupted writes are not among them."""
        for name in self._disk.names(self.folder):
            if len(name) == 64:
                yield Digest(name)

    def sweep(self) -> None:
        """Delete leftovers of interrupted writes; call it once, when opening, before any `put`."""
        for name in self._disk.names(self.folder):
            if ".part-" in name:
                self._disk.remove(self.folder / name)
