"""The demonstration's processes: one coordinator and its workers, started, followed, stopped."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from primia.errors import StateError

STOP_S = 10.0


def command(module: str, *arguments: str) -> list[str]:
    """A command line for one of our own programs, under this very Python."""
    return [sys.executable, "-m", module, *arguments]


REFUSED = 1  # exit status of a command that refused, with its reason


class CallFailed(StateError):
    """A command ended badly. code: its exit status, `REFUSED` or 2 for wrong use."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def call(module: str, *arguments: str, timeout_s: float = 300) -> str:
    """Run one command to its end; its standard output. Raises CallFailed with its last lines."""
    done = subprocess.run(
        command(module, *arguments), capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode != 0:
        words = f"{module} {arguments[0]} failed: {done.stderr.strip()[-500:]}"
        raise CallFailed(words, done.returncode)
    return done.stdout


def free_port() -> int:
    """A port of the loopback that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Daemon:
    """One process and its log of JSON lines."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    _begin: int = 0  # where this process's part of the log begins
    _reader: IO[str] | None = field(default=None, repr=False)

    @classmethod
    def start(cls, name: str, log: Path, module: str, *arguments: str) -> Daemon:
        """Start `module` with its log (standard error) in a file."""
        with log.open("ab") as sink:
            begin = sink.tell()
            process = subprocess.Popen(
                command(module, *arguments, "--log-json"),
                stdout=sink,
                stderr=sink,
                stdin=subprocess.DEVNULL,
                # A Ctrl-C at the terminal is ours to hand on, in order.
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        return cls(name, process, log, begin)

    def news(self) -> Iterator[dict[str, Any]]:
        """Events logged since the last call; lines that are no events are skipped."""
        if self._reader is None:
            self._reader = self.log.open(encoding="utf-8", errors="replace")
            self._reader.seek(self._begin)
        while line := self._reader.readline():
            if not line.endswith("\n"):  # still being written
                self._reader.seek(self._reader.tell() - len(line.encode()))
                return
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event

    def ended_badly(self) -> bool:
        """Whether the process is gone, with an error."""
        return self.process.poll() not in (None, 0)

    def last_lines(self, count: int = 5) -> str:
        """The end of the log, for an error message."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-count:])


def stop_all(daemons: list[Daemon]) -> None:
    """SIGTERM to all that still run, SIGKILL to what does not end in time."""
    for daemon in daemons:
        if daemon.process.poll() is None:
            daemon.process.terminate()
    until = time.monotonic() + STOP_S
    for daemon in daemons:
        try:
            daemon.process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            daemon.process.kill()
            daemon.process.wait()
