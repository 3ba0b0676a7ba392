"""One coordinator (service, books, server) and real worker folders.

TLS goes by the machine's clock, so a certificate grows old by having been issued long ago.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from coordinator import home
from coordinator.rows import ModelRow, PinnedStudy
from coordinator.service import Service
from coordinator.state import CoordinatorState
from coordinator.upkeep import Upkeep
from primia.config import canonical_bytes, plan_digest
from primia.config.plan import StudyPlan
from primia.identity import keyfile
from primia.identity.signing import sign
from primia.storage.blobs import Blobs
from primia.types import Digest, SiteId
from primia.wire.client import FederationClient
from primia.wire.labels import PLAN_LABEL
from primia.wire.server import serve
from tests.attacks.hospitals import NAMES, plan
from worker import home as worker_home
from worker.home import SiteIdentity
from worker.renewal import Renewal
from worker.state import WorkerState
from worker.study import Peers

PLAN: StudyPlan = plan()
EAST, NORTH, SOUTH, WEST = (SiteId(name) for name in NAMES)


class Clock:
    """The time of day at everybody."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def pass_days(self, days: float) -> None:
        self.ahead += timedelta(days=days)


class IdleDriver:
    """No round is ever open; whoever attends waits, as in `RoundDriver.attend`."""

    terms = SimpleNamespace(plan=plan_digest(PLAN))

    def attend(self, site: SiteId, after: int, wait_s: float, stopping: Callable[[], bool]) -> None:
        until = time.monotonic() + wait_s
        while time.monotonic() < until and not stopping():
            time.sleep(0.02)

    def upload_limit(self, *_: Any) -> int:
        return 1 << 30

    def holds_update(self, *_: Any) -> bool:
        return False

    def progress(self, _site: SiteId) -> None: ...

    def update_arrived(self, *_: Any) -> None:
        raise AssertionError("an update that must not arrive")


@dataclass
class Worker:
    """One hospital's folder, and what `worker.daemon` makes of it."""

    folder: Path
    clock: Clock
    link: FederationClient = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        identity = self.load()
        self.state = WorkerState(self.folder)
        self.link = FederationClient(identity.address, identity.tls(), now=self.clock)
        self.peers = Peers(identity, self.state, self.clock)
        self.renewal = Renewal(self.folder, identity, self.link, self.state.audit, self.clock)
        self.renewal.watch(self.peers, PLAN)

    def load(self) -> SiteIdentity:
        """The identity as it lies on disk."""
        return worker_home.load(self.folder)

    def look(self, directory: int = -1, *, between_rounds: bool = True) -> None:
        """What the daemon does after each `attend`."""
        self.renewal.look(directory, between_rounds=between_rounds)

    def files(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (self.folder / "identity").iterdir()}

    def stop(self) -> None:
        self.link.close()
        self.state.close()


@contextmanager
def _long_ago(days: float) -> Iterator[None]:
    """What the coordinator certifies in here was certified so many days ago."""
    original = home.now
    home.now = lambda: original() - timedelta(days=days)
    try:
        yield
    finally:
        home.now = original


class Study:
    """A coordinator on its folder; `enrol` adds hospitals to it.

    age_days: how long ago everything was certified, for 825 days.
    """

    def __init__(self, folder: Path, age_days: float = 600) -> None:
        self.folder = folder
        self.clock = Clock()
        self.age_days = age_days
        self.home = folder / "coordinator"
        with _long_ago(age_days):
            home.initialise(self.home, PLAN.study)
        self.state = CoordinatorState(self.home)
        none = Digest("0" * 64)
        data = canonical_bytes(PLAN)
        signature = sign(home.coordinator_key(self.home), PLAN_LABEL, data)
        signed = PinnedStudy(data, signature, plan_digest(PLAN), 10)
        self.state.pin_study(signed, ModelRow(0, none, none, None))
        self.workers: dict[SiteId, Worker] = {}
        self._ends = contextlib.ExitStack()
        self._ends.callback(self.state.close)
        self.start()

    def start(self) -> None:
        self.upkeep = Upkeep(self.home, self.state, self.clock)
        self.stopping = threading.Event()
        self.service = Service(
            self.home,
            self.state,
            Blobs(self.home / "blobs"),
            IdleDriver(),  # type: ignore[arg-type]
            self.stopping.is_set,
            self.upkeep,
        )
        self.server = self._ends.enter_context(
            serve(
                self.service,
                listen="127.0.0.1:0",
                tls=self.service.tls,
                roots=self.service.roots,
                now=self.clock,
                max_sites=8,
            )
        )

    def enrol(self, site: SiteId) -> Worker:
        invitation, _ = home.invite(self.home, site, self.server.address)
        with _long_ago(self.age_days):
            worker_home.enrol(self.folder / site, invitation.code(), None)
        self.workers[site] = Worker(self.folder / site, self.clock)
        self._ends.callback(self.workers[site].stop)
        return self.workers[site]

    def take_authority_away(self) -> None:
        (self.home / "authority").rename(self.folder / "safe")

    def bring_authority_back(self) -> None:
        (self.folder / "safe").rename(self.home / "authority")

    def close(self) -> None:
        self.stopping.set()
        self._ends.close()


def another_key() -> Any:
    """A key that nobody has seen."""
    return keyfile.new_key()


def bundle_of(study: Study) -> Any:
    """What every site is handed."""
    return study.service.study(SimpleNamespace(name="east"))  # type: ignore[arg-type]
