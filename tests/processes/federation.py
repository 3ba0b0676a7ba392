"""A small federation of real daemons on the loopback, for tests that kill them."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from primia.demo.fleet import Daemon, call, free_port, stop_all
from primia.demo.plans import write_yaml
from primia.imaging.export import write_site_npz
from primia.imaging.synth import CLASSES, synthesise

PATIENTS = 60
SIZE = 28


def plan(sites: list[str], **changes: Any) -> dict[str, Any]:
    """A plan that trains in seconds."""
    return {
        "study": "small",
        "model": {"name": "small-cnn", "input_size": SIZE, "classes": list(CLASSES)},
        "sites": sites,
        "rounds": 2,
        "schedule": {"deadline_s": 120, "quorum": 3, "grace_s": 15, "stage_timeout_s": 10},
        "training": {
            "patient_sampling_rate": 0.5,
            "local_steps": 12,
            "expected_patients": 24,
            "learning_rate": 0.3,
        },
        "privacy": {"noise_multiplier": 2.0, "delta": 1e-3},
    } | changes


@dataclass
class Federation:
    """Folders and processes of one coordinator and its sites."""

    folder: Path
    sites: list[str]
    port: int = field(default_factory=free_port)
    daemons: dict[str, Daemon] = field(default_factory=dict)
    coordinator_module: str = "coordinator"

    @property
    def home(self) -> Path:
        return self.folder / "coordinator"

    def found(
        self, plan_data: dict[str, Any], *, epsilon_cap: float = 20.0, approved: bool = True
    ) -> None:
        """Films, authority, coordinator up, every site enrolled, the plan approved there."""
        films = {
            name: synthesise(PATIENTS, size=SIZE, seed=3, site=i)
            for i, name in enumerate(self.sites)
        }
        paths = write_site_npz(films, self.folder / "films", CLASSES)
        write_yaml(plan_data, self.folder / "plan.yaml")
        call("coordinator", "init", "small", "--state", str(self.home))
        codes = {
            name: json.loads(
                call(
                    "coordinator", "invite", name, "--json", "--state", str(self.home),
                    "--address", f"127.0.0.1:{self.port}",
                )
            )["code"]
            for name in self.sites
        }  # fmt: skip
        self.start_coordinator()
        for name, path in zip(self.sites, paths, strict=True):
            site = {
                "data": {"kind": "npz", "path": str(path)},
                "caps": {
                    "max_epsilon": epsilon_cap,
                    "max_delta": 1e-3,
                    "min_patients": 10,
                    "allow_shared_noise": True,
                },
                "compute": {"device": "cpu"},
            }
            write_yaml(site, self.folder / f"{name}.yaml")
            call("worker", "enrol", codes[name], "--state", str(self.folder / name))
            if approved:
                self.approve(name)

    def approve(self, name: str, by: str = "test") -> None:
        """One person of a site agrees to the plan as it is and to the films as they are."""
        call(
            "worker", "plan", "approve", "--as", by, "--state", str(self.folder / name),
            "--config", str(self.folder / f"{name}.yaml"),
        )  # fmt: skip

    def start_coordinator(self, *more: str) -> Daemon:
        daemon = Daemon.start(
            "coordinator", self.folder / "coordinator.log", self.coordinator_module, "start",
            "--plan", str(self.folder / "plan.yaml"), "--state", str(self.home),
            "--listen", f"127.0.0.1:{self.port}", *more,
        )  # fmt: skip
        self.daemons["coordinator"] = daemon
        self.wait_for(daemon, "listening")
        return daemon

    def start_worker(self, name: str, module: str = "worker", *more: str) -> Daemon:
        daemon = Daemon.start(
            name, self.folder / f"{name}.log", module, "run",
            "--config", str(self.folder / f"{name}.yaml"), "--state", str(self.folder / name),
            *more,
        )  # fmt: skip
        self.daemons[name] = daemon
        return daemon

    def wait_for(self, daemon: Daemon, event: str, *, timeout_s: float = 90, **fields: Any) -> Any:
        """The next log event of this name whose fields match."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            for found in daemon.news():
                if found.get("event") == event and fields.items() <= found.items():
                    return found
            if daemon.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"{daemon.name}: no {event} {fields}\n{daemon.last_lines(15)}")

    def wait_until(self, true: Callable[[], bool], timeout_s: float = 120) -> None:
        until = time.monotonic() + timeout_s
        while not true():
            if time.monotonic() > until:
                logs = "\n".join(d.last_lines(8) for d in self.daemons.values())
                raise AssertionError(f"not within {timeout_s} s\n{logs}")
            time.sleep(0.05)

    def wait_for_end(self, timeout_s: float = 150) -> None:
        """Until the coordinator has ended by itself."""
        process = self.daemons["coordinator"].process
        self.wait_until(lambda: process.poll() is not None, timeout_s)
        assert process.returncode == 0, self.daemons["coordinator"].last_lines(15)

    def result(self) -> dict[str, Any]:
        """result.json of the study as it stands."""
        target = self.folder / "result"
        call("coordinator", "export", str(target), "--state", str(self.home))
        return dict(json.loads((target / "result.json").read_text()))

    def ledger(self, site: str) -> list[tuple[int, str]]:
        """(round, update digest) of each charge of a site."""
        with sqlite3.connect(self.folder / site / "ledger.db") as db:
            return list(db.execute("SELECT round, update_digest FROM ledger ORDER BY number"))

    def stop(self) -> None:
        stop_all(list(self.daemons.values()))


def committed(result: dict[str, Any]) -> list[int]:
    """Numbers of committed rounds, in the order of their attempts."""
    return [a["number"] for a in result["attempts"] if a["outcome"] == "committed"]
