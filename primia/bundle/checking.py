"""Is a bundle whole, and nothing else in it? Reads a tar without unpacking it."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from primia.bundle.writing import REQUIREMENTS, SUMS
from primia.errors import ConfigError, IdentityError

_CHUNK = 1 << 20
_LONGEST_LIST = 1 << 20
_SUM = re.compile(r"([0-9a-f]{64})  (\S+)")
_REQUIREMENT = re.compile(r"[a-z0-9-]+==\S+ --hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Verified:
    """A bundle whose files are those of its list; `digest` is the list's own."""

    files: int
    wheels: int
    size: int  # bytes
    digest: str


def verify_bundle(path: Path, digest: str | None = None) -> Verified:
    """Hold every file of the bundle at `path` against SHA256SUMS, and that against `digest`.

    digest: as the maker of the bundle told it. Without it this finds damage, not forgery.
    Raises IdentityError for a file that is changed, missing or not listed, for a link or device,
    and for wheels that are not those of the requirements; ConfigError when it is no bundle.
    """
    found: dict[str, str] = {}
    size = 0
    texts: dict[str, bytes] = {}
    try:
        for name, file in _files(path):
            if name in found:
                raise IdentityError(f"{path}: {name} is there twice; do not install it")
            if name in (SUMS, REQUIREMENTS):
                texts[name] = file.read(_LONGEST_LIST)
                found[name] = hashlib.sha256(texts[name]).hexdigest()
                size += len(texts[name])
            else:
                found[name] = _digest(file)
                size += file.tell()
    except (OSError, tarfile.TarError) as err:
        raise ConfigError(f"{path} cannot be read as a bundle ({err}); copy it again") from err
    if SUMS not in texts:
        raise ConfigError(f"{path} is not a bundle: it has no {SUMS}")
    list_digest = found.pop(SUMS)
    if digest is not None and digest.strip().lower() != list_digest:
        raise IdentityError(
            f"{path}: the digest of {SUMS} is {list_digest}, not the one given; do not install it, "
            "and ask whoever made the bundle"
        )
    listed = _listed(path, texts[SUMS])
    _compare(path, listed, found)
    _check_requirements(path, texts.get(REQUIREMENTS, b""), found)
    wheels = sum(name.startswith("wheels/") for name in found)
    return Verified(len(found) + 1, wheels, size, list_digest)


def _digest(file: IO[bytes]) -> str:
    state = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        state.update(chunk)
    return state.hexdigest()


def _files(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name within the bundle, and content, of each file. Raises IdentityError for what is none."""
    if path.is_dir():
        for entry in sorted(path.rglob("*")):
            name = entry.relative_to(path).as_posix()
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                raise IdentityError(f"{path}: {name} is a link or device; do not install it")
            if entry.is_file():
                with entry.open("rb") as file:
                    yield name, file
        return
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            parts = PurePosixPath(member.name).parts
            if not member.isreg() or len(parts) < 2 or ".." in parts or parts[0] == "/":
                raise IdentityError(
                    f"{path}: {member.name!r} is no plain file in one folder; do not unpack it"
                )
            file_ = archive.extractfile(member)
            assert file_ is not None  # a regular file
            yield "/".join(parts[1:]), file_


def _listed(path: Path, text: bytes) -> dict[str, str]:
    listed = {}
    for line in text.decode("utf-8", "replace").splitlines():
        match = _SUM.fullmatch(line)
        if match is None:
            raise IdentityError(f"{path}: {SUMS} has a line that is no sum: {line[:80]!r}")
        listed[match[2]] = match[1]
    return listed


def _compare(path: Path, listed: dict[str, str], found: dict[str, str]) -> None:
    for what, names in (
        ("missing", listed.keys() - found.keys()),
        ("not listed", found.keys() - listed.keys()),
        ("changed", {n for n in listed.keys() & found.keys() if listed[n] != found[n]}),
    ):
        if names:
            shown = ", ".join(sorted(names)[:5])
            raise IdentityError(f"{path}: {what}: {shown}; do not install it, get it again")


def _check_requirements(path: Path, text: bytes, found: dict[str, str]) -> None:
    lines = text.decode("utf-8", "replace").splitlines()
    matches = [_REQUIREMENT.fullmatch(line) for line in lines]
    wheels = {digest for name, digest in found.items() if name.startswith("wheels/")}
    if None in matches or {m[1] for m in matches if m} != wheels:
        raise IdentityError(f"{path}: {REQUIREMENTS} does not name exactly the wheels in it")
