"""A federation of real daemons, with means to hurt it."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any

from primia.demo.fleet import Daemon
from tests.faults import contract
from tests.faults.relay import Relay
from tests.processes.federation import Federation

FOUR = ["north", "south", "east", "west"]
SCHEDULE = {"deadline_s": 60, "quorum": 3, "grace_s": 8, "stage_timeout_s": 8}


class Ward(Federation):
    """`keeping` keeps what the contract is checked on: workers delete the updates of old rounds."""

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Link every site's stored updates aside while they are there."""
        ended = threading.Event()
        kept = self.folder / contract.KEPT
        kept.mkdir(exist_ok=True)

        def keep() -> None:
            while not ended.wait(0.02):  # a round takes less than a second
                for site in self.sites:
                    for blob in (self.folder / site / "blobs").glob("?" * 64):
                        with contextlib.suppress(FileExistsError, FileNotFoundError):
                            os.link(blob, kept / blob.name)

        thread = threading.Thread(target=keep, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def through(self, site: str, relay: Relay) -> None:
        """Let `site` reach the coordinator by way of `relay`."""
        self.dials(site, relay.address)

    def dials(self, site: str, address: str) -> None:
        db = sqlite3.connect(self.folder / site / "worker.db")
        with contextlib.closing(db), db:
            db.execute("UPDATE meta SET value = ? WHERE key = 'address'", (address,))

    def start_coordinator(self, *options: str) -> Daemon:
        self.daemons["coordinator"] = Daemon.start(
            "coordinator", self.folder / "coordinator.log", "coordinator", "start",
            "--plan", str(self.folder / "plan.yaml"), "--state", str(self.home),
            "--listen", f"127.0.0.1:{self.port}", *options,
        )  # fmt: skip
        self.wait_for(self.coordinator, "listening")
        return self.coordinator

    def start_all(self, *but: str) -> None:
        for name in self.sites:
            if name not in but:
                self.start_worker(name)

    @property
    def coordinator(self) -> Daemon:
        return self.daemons["coordinator"]

    def kill(self, name: str) -> None:
        self.daemons[name].process.kill()
        self.daemons[name].process.wait()

    def terminate(self, name: str, within_s: float = 10.0) -> float:
        """SIGTERM; how long it took to end, with exit code 0."""
        process = self.daemons[name].process
        began = time.monotonic()
        process.terminate()
        assert process.wait(within_s + 20) == 0, self.daemons[name].last_lines(15)
        took = time.monotonic() - began
        assert took <= within_s, f"{name} took {took:.1f} s to end"
        return took

    def send(self, name: str, number: signal.Signals) -> None:
        os.kill(self.daemons[name].process.pid, number)

    def wait_for_exit(self, name: str, timeout_s: float = 60) -> int:
        """Its exit code."""
        return self.daemons[name].process.wait(timeout_s)

    def said(self, name: str) -> str:
        """The whole log of a daemon."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def attempts(self) -> list[dict[str, Any]]:
        return list(self.result()["attempts"])

    def check(self, **wishes: Any) -> None:
        contract.check(self, **wishes)
