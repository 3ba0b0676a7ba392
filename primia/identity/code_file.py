"""A one-time code in a file: written, waited for, read."""

from __future__ import annotations

import time
from pathlib import Path

from primia.errors import ConfigError
from primia.identity import keyfile
from primia.identity.invitation import Invitation

_LONGEST = 4096


def write_code_file(invitation: Invitation, file: Path) -> None:
    """The secret code, for its owner alone to read. Raises StateError."""
    keyfile.store(file, invitation.code().encode("ascii") + b"\n")


def read_code_file(file: Path, wait_s: float = 0.0) -> str:
    """The code in `file`, which may take `wait_s` to appear. Raises ConfigError."""
    until = time.monotonic() + wait_s
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.2)
    try:
        with file.open("rb") as opened:
            return opened.read(_LONGEST).decode("ascii")
    except OSError as err:
        raise ConfigError(f"cannot read {file}: {err.strerror}; give the file of the code") from err
    except UnicodeDecodeError as err:
        raise ConfigError(f"{file} holds no invitation code; give the file that was sent") from err
