"""The systemd units, for the folders of an installation."""

from __future__ import annotations

import re
from enum import StrEnum
from importlib import resources
from pathlib import Path

from primia.errors import ConfigError

PREFIX = Path("/opt/primia")
FILMS = Path("/srv/films")
_PLAIN = re.compile(r"/[A-Za-z0-9._/-]*")  # no white space, quotes or systemd's % and $


class Role(StrEnum):
    """Which daemon."""

    WORKER = "worker"
    COORDINATOR = "coordinator"


def unit_text(role: Role, *, prefix: Path = PREFIX, films: Path = FILMS) -> str:
    """The unit of a daemon installed in the environment `prefix`, with films below `films`.

    Raises ConfigError for a path that is not absolute and plain.
    """
    text = file_text(f"primia-{role.value}.service")
    for name, path in (("PREFIX", prefix), ("FILMS", films)):
        if not _PLAIN.fullmatch(str(path)):
            raise ConfigError(
                f"{path} cannot stand in a unit; give an absolute path of letters, digits, . _ -"
            )
        text = text.replace(f"@{name}@", str(path))
    return text


def file_text(name: str) -> str:
    """A file that ships beside this module."""
    return (resources.files("primia.bundle") / "files" / name).read_text(encoding="utf-8")
