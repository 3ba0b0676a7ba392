"""A folder of wheels, and which of them an installation needs."""

from __future__ import annotations

import hashlib
import platform
import re
import sys
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, sys_tags
from packaging.utils import (
    InvalidWheelFilename,
    canonicalize_name,
    parse_wheel_filename,
)
from packaging.version import Version

from primia.errors import ConfigError

_LICENCE_LENGTH = 64  # some put the whole text where its name belongs
_GLIBC = re.compile(r"manylinux_(\d+)_(\d+)_")
_OLD_NAMES = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


@dataclass(frozen=True)
class Wheel:
    """One wheel file and what its metadata says."""

    path: Path
    name: str  # canonical
    version: Version
    tags: frozenset[Tag]
    sha256: str
    licence: str
    requires: tuple[Requirement, ...]
    extras: tuple[str, ...]

    @property
    def glibc(self) -> tuple[int, int] | None:
        """The oldest glibc it runs with; None when it asks for none."""
        found = [v for tag in self.tags if (v := _glibc(tag.platform))]
        return min(found, default=None)


def needed(folder: Path, root: str, extras: Collection[str]) -> list[Wheel]:
    """The wheels in `folder` that installing `root` with `extras` takes here, by name.

    Here: this Python on this platform. What is not asked for stays out. Raises ConfigError when
    one is missing, of a wrong version or platform, there twice, or not readable.
    """
    here = _fitting(folder)
    if root in here and (unknown := set(extras) - set(here[root].extras)):
        raise ConfigError(
            f"{root} has no extra {', '.join(sorted(unknown))}; "
            f"it has: {', '.join(here[root].extras) or 'none'}"
        )
    chosen: dict[str, Wheel] = {}
    seen: set[tuple[str, str]] = set()
    wanted = [(Requirement(root), "this bundle", frozenset(extras))]
    while wanted:
        requirement, asker, parts = wanted.pop()
        name = canonicalize_name(requirement.name)
        wheel = here.get(name)
        if wheel is None:
            raise ConfigError(
                f"{folder} has no wheel of {requirement} for this Python and platform, which "
                f"{asker} needs; make the wheels anew with: pip wheel -w {folder} ."
            )
        if not requirement.specifier.contains(wheel.version, prereleases=True):
            raise ConfigError(
                f"{folder} holds {wheel.name} {wheel.version}, and {asker} needs {requirement}; "
                "make the wheels anew, into an empty folder"
            )
        chosen[name] = wheel
        for part in ("", *parts):
            if (name, part) in seen:
                continue
            seen.add((name, part))
            wanted += [
                (r, wheel.name, frozenset(r.extras)) for r in wheel.requires if _applies(r, part)
            ]
    return [chosen[name] for name in sorted(chosen)]


def _applies(requirement: Requirement, extra: str) -> bool:
    if requirement.marker is None:
        return extra == ""
    environment: dict[str, str] = {**_environment(), "extra": extra}
    plain = {**environment, "extra": ""}
    return requirement.marker.evaluate(environment) and (
        extra == "" or not requirement.marker.evaluate(plain)
    )


def _environment() -> Mapping[str, str]:
    return {k: str(v) for k, v in default_environment().items()}


def _fitting(folder: Path) -> dict[str, Wheel]:
    """The wheels of `folder` that this Python can install, by name."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder of wheels; make one: pip wheel -w {folder} .")
    installable = set(sys_tags())
    found: dict[str, Wheel] = {}
    for path in sorted(folder.glob("*.whl")):
        wheel = _read(path)
        if not wheel.tags & installable:
            continue
        other = found.setdefault(wheel.name, wheel)
        if other is not wheel:
            raise ConfigError(
                f"{folder} holds both {other.path.name} and {path.name}; remove the wrong one"
            )
    return found


def _read(path: Path) -> Wheel:
    try:
        name, version, _, tags = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            (member,) = (n for n in archive.namelist() if _is_metadata(n))
            headers = HeaderParser().parsestr(archive.read(member).decode("utf-8"))
        requires = tuple(Requirement(r) for r in headers.get_all("Requires-Dist", []))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (InvalidWheelFilename, InvalidRequirement, zipfile.BadZipFile, ValueError) as err:
        raise ConfigError(f"{path} is not a wheel that can be read ({err}); make it anew") from err
    except OSError as err:
        raise ConfigError(f"{path} cannot be read ({err.strerror}); make it anew") from err
    extras = tuple(headers.get_all("Provides-Extra", []))
    return Wheel(path, name, version, frozenset(tags), digest, _licence(headers), requires, extras)


def _is_metadata(member: str) -> bool:
    return member.count("/") == 1 and member.endswith(".dist-info/METADATA")


def _licence(headers: Message) -> str:
    """As the package states it: SPDX expression, else its short words, else the classifiers."""
    expression = headers.get("License-Expression")
    if expression:
        return str(expression)
    words = str(headers.get("License") or "").strip()
    if words and "\n" not in words and len(words) <= _LICENCE_LENGTH and words != "UNKNOWN":
        return words
    classes = [c.split(" :: ")[-1] for c in headers.get_all("Classifier", []) if "License ::" in c]
    return ", ".join(sorted(set(classes))) or "not stated"


def _glibc(platform_tag: str) -> tuple[int, int] | None:
    for old, version in _OLD_NAMES.items():
        if platform_tag.startswith(f"{old}_"):
            return version
    match = _GLIBC.match(platform_tag)
    return None if match is None else (int(match[1]), int(match[2]))


def target() -> str:
    """This Python and platform, for the name of a bundle: cp311-linux-x86_64."""
    version = sys.version_info
    return f"cp{version.major}{version.minor}-{sys.platform}-{platform.machine()}"
