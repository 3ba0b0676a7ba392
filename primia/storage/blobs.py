"""Blobs as files named by their SHA-256: written whole or not at all, checked when read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from primia.errors import StateError
from primia.types import Digest, sha256


class Blobs:
    """A folder of blobs. The caller's database row is the commit point, a file alone is none.

    Writing the same bytes twice is harmless. Safe to use from several threads of one process.
    """

    def __init__(self, folder: Path) -> None:
        """Open `folder`, made with mode 0700 if missing. Raises StateError."""
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as err:
            raise StateError(f"cannot make {folder}: {err.strerror}; check the disk") from err

    def path(self, digest: Digest) -> Path:
        """Where the blob is or would be."""
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ValueError(f"{digest!r} is not a SHA-256 in hexadecimal")
        return self.folder / digest

    def __contains__(self, digest: Digest) -> bool:
        return self.path(digest).is_file()

    def put(self, data: bytes | bytearray | memoryview) -> Digest:
        """Store `data`, durable on return. Raises StateError (disk full and the like)."""
        digest = sha256(data)
        part = self.folder / f"{digest}.part-{os.urandom(4).hex()}"
        try:
            try:
                handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                part.rename(self.path(digest))
            except OSError:
                part.unlink(missing_ok=True)
                raise
            self._sync_folder()
        except OSError as err:
            raise StateError(
                f"cannot store {len(data)} bytes in {self.folder}: {err.strerror}; "
                "free space or mend the disk, what was stored before is intact"
            ) from err
        return digest

    def adopt(self, path: Path) -> Digest:
        """Move a finished file of the same file system in, durable on return. Raises StateError."""
        try:
            with path.open("rb+") as file:
                digest = Digest(hashlib.file_digest(file, "sha256").hexdigest())
                os.fsync(file.fileno())
            path.rename(self.path(digest))
            self._sync_folder()
        except OSError as err:
            raise StateError(
                f"cannot move {path} into {self.folder}: {err.strerror}; check the disk"
            ) from err
        return digest

    def get(self, digest: Digest) -> bytes:
        """Read a blob whole. Raises StateError when it is missing or its bytes have changed."""
        path = self.path(digest)
        try:
            data = path.read_bytes()
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
            self.path(digest).unlink(missing_ok=True)
        except OSError as err:
            raise StateError(f"cannot delete blob {digest}: {err.strerror}") from err

    def __iter__(self) -> Iterator[Digest]:
        """The digests that have a file; leftovers of interrupted writes are not among them."""
        for path in sorted(self.folder.iterdir()):
            if len(path.name) == 64:
                yield Digest(path.name)

    def sweep(self) -> None:
        """Delete leftovers of interrupted writes; call it once, when opening, before any `put`."""
        for path in self.folder.glob("*.part-*"):
            path.unlink(missing_ok=True)

    def _sync_folder(self) -> None:
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
