"""The compose project of the simulation, driven from outside by the engine's own commands.

Standard library only: whoever runs a simulation needs Python and Docker, and nothing installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1]  # docker/
OUT = FOLDER / "out"
_RESULT = "/var/lib/primia/result"


class Failed(Exception):
    """The simulation did not do what it should; the text says what, and where to look."""


@dataclass(frozen=True)
class Event:
    """One line of a daemon's log."""

    at: float  # seconds since 1970
    name: str
    fields: dict[str, Any]


def docker(*arguments: str, check: bool = True) -> str:
    """Run one engine command; its output. Raises Failed with what it said."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120)
    if check and done.returncode != 0:
        raise Failed(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _compose_command() -> list[str]:
    found = subprocess.run(["docker", "compose", "version"], capture_output=True)
    return ["docker", "compose"] if found.returncode == 0 else ["docker-compose"]


@dataclass
class Project:
    """One federation in containers: `up`, look, `down`."""

    name: str
    files: Sequence[str]  # compose files in docker/
    hospitals: Sequence[str]
    _command: list[str] = field(default_factory=_compose_command)

    def compose(self, *arguments: str, quiet: bool = False) -> None:
        """Run a compose command to its end. Raises Failed when it fails."""
        files = [part for file in self.files for part in ("-f", str(FOLDER / file))]
        done = subprocess.run(
            [*self._command, "-p", self.name, *files, *arguments],
            stdout=subprocess.PIPE if quiet else None,
            stderr=subprocess.STDOUT if quiet else None,
            text=True,
        )
        if done.returncode != 0:
            raise Failed(f"compose {arguments[0]} failed\n{(done.stdout or '')[-4000:]}")

    def up(self) -> None:
        """Build the images and start everything; the enrolment is done when this returns."""
        print("building the images; minutes when the wheels are new", flush=True)
        # The hospitals share one.
        self.compose("build", "coordinator", self.hospitals[0], quiet=True)
        try:
            self.compose("up", "--detach", "--no-build", quiet=True)
        except Failed:
            self.compose("logs", "--tail", "20")
            raise

    def down(self) -> None:
        """Remove containers, networks, volumes."""
        self.compose("down", "--volumes", "--timeout", "5", quiet=True)

    def container(self, service: str) -> str:
        """The id of a service's container, running or not. Raises Failed when there is none."""
        labels = {"project": self.name, "service": service, "oneoff": "False"}
        wanted = [f"--filter=label=com.docker.compose.{k}={v}" for k, v in labels.items()]
        found = docker("ps", "--all", "--quiet", *wanted)
        if not found:
            raise Failed(f"{service} has no container")
        return found

    def state(self, service: str) -> str:
        """running, paused, restarting, exited …"""
        return docker("inspect", "--format", "{{.State.Status}}", self.container(service))

    def exit_code(self, service: str) -> int:
        """Of a service that has ended."""
        return int(docker("inspect", "--format", "{{.State.ExitCode}}", self.container(service)))

    def events(self, service: str) -> list[Event]:
        """All that a daemon has logged so far, over its restarts."""
        done = subprocess.run(
            ["docker", "logs", self.container(service)], capture_output=True, text=True, timeout=60
        )
        return [e for line in (done.stdout + done.stderr).splitlines() if (e := _event(line))]

    def run(self, service: str, *command: str) -> str:
        """A command of the program in a container like the service's, beside it; its output."""
        files = [part for file in self.files for part in ("-f", str(FOLDER / file))]
        done = subprocess.run(
            [*self._command, "-p", self.name, *files, "run", "--rm", "--no-deps", "-T",
             "-e", "COLUMNS=110", service, *command],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        if done.returncode != 0:
            raise Failed(f"{service} {' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def export(self) -> dict[str, Any]:
        """Report, result and models to docker/out/; the result."""
        self.run("coordinator", "export", _RESULT)
        subprocess.run(["rm", "-rf", str(OUT)], check=True)
        docker("cp", f"{self.container('coordinator')}:{_RESULT}", str(OUT))
        loaded: dict[str, Any] = json.loads((OUT / "result.json").read_text(encoding="utf-8"))
        return loaded

    def charges(self, hospital: str) -> list[dict[str, Any]]:
        """The rows of a hospital's privacy ledger, as its own command prints them."""
        text = self.run(hospital, "budget", "--config", "/etc/primia/site.yaml", "--json")
        rows: list[dict[str, Any]] = json.loads(text)["charges"]
        return rows

    def check_well(self) -> None:
        """Raises Failed with the last log lines when a daemon has given up."""
        for service in ("coordinator", *self.hospitals):
            if self.state(service) == "exited" and (code := self.exit_code(service)) not in (
                0,
                137,
            ):
                last = docker("logs", "--tail", "5", self.container(service), check=False)
                raise Failed(f"{service} ended with exit code {code}\n{last}")


def _event(line: str) -> Event | None:
    try:
        fields = json.loads(line)
        at = datetime.fromisoformat(fields.pop("timestamp")).timestamp()
        return Event(at, fields.pop("event"), fields)
    except (ValueError, KeyError, AttributeError):
        return None  # not a log line of primia: what Python or a library printed


def main(work: Any) -> None:
    """Run `work`; Failed becomes a line and exit code 1."""
    try:
        work()
    except Failed as err:
        print(f"FAILED: {err}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
