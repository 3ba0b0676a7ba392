"""Keys and certificates as files: 0600 in a 0700 folder, or they are not used."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from primia.errors import IdentityError, StateError


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key from the operating system's entropy."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8 PEM without a password: the file's mode is its guard."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def key_from_pem(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Read a P-256 private key. Raises IdentityError for anything else."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as err:
        raise IdentityError("not a private key in PEM form without a password") from err
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError(
            "the private key is not on the curve P-256; make a new one by enrolling"
        )
    return key


def store_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write `key` to `path` (see `store`)."""
    store(path, key_to_pem(key))


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read the key at `path` if nobody else can.

    Raises IdentityError when the file or its folder is open to others (names the mode and the
    `chmod` that mends it), or when it holds no P-256 key; StateError when it cannot be read.
    """
    check_private(path)
    try:
        return key_from_pem(load(path))
    except IdentityError as err:
        raise IdentityError(f"{path}: {err}") from err


def store(path: Path, data: bytes) -> None:
    """Write `data` with mode 0600, all or nothing; the folder is made with mode 0700 if missing.

    Temporary file, fsync, rename, fsync of the folder. Raises StateError with the path.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as err:
        raise StateError(f"cannot write {path}: {err.strerror}; check the folder and disk") from err


def store_once(path: Path, data: bytes) -> bytes:
    """Write `data` unless the file is there; returns what the file holds, also when two race.

    Raises StateError with the path.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}")
    if not path.exists():
        store(part, data)
        try:
            os.link(part, path)  # fails where the name is taken; a rename would replace it
        except FileExistsError:
            pass
        except OSError as err:
            raise StateError(f"cannot write {path}: {err.strerror}; check the disk") from err
        finally:
            part.unlink(missing_ok=True)
    return load(path)


def load(path: Path) -> bytes:
    """Read a small file. Raises StateError with the path."""
    try:
        return path.read_bytes()
    except OSError as err:
        raise StateError(
            f"cannot read {path}: {err.strerror}; was this folder initialised or enrolled?"
        ) from err


def check_private(path: Path) -> None:
    """Raise IdentityError when the file or its folder is open to others, StateError if missing."""
    _check_mode(path.parent, 0o700)
    _check_mode(path, 0o600)


def _check_mode(path: Path, wanted: int) -> None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as err:
        raise StateError(
            f"cannot read {path}: {err.strerror}; was this folder initialised or enrolled?"
        ) from err
    if mode & ~wanted:
        raise IdentityError(
            f"{path} has mode {mode:04o} and is open to others; run: chmod {wanted:o} {path}"
        )
