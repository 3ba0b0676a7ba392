"""The coordinator's process in the simulation: driver, state and blobs as its daemon has them.

Calls of sites are handled one after the other: the driver has one lock, so nothing is lost by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coordinator.heads import HeadKeeper, compare_books
from coordinator.rounds import RoundDriver
from coordinator.state import CoordinatorState
from primia.errors import PeerError, PrimiaError, RoundFailed, StateError, Unreachable
from primia.storage.blobs import Blobs
from primia.types import Digest, SiteId, sha256
from primia.wire.handler import POLL_S, Attendance, UploadKey
from tests.faultsim.disk import SimDisk
from tests.faultsim.hospital import START
from tests.faultsim.network import Respond
from tests.faultsim.study import Study, first_model
from tests.faultsim.weather import Weather, until_restarted_s
from tests.faultsim.world import Crash, World

FOLDER = Path("/coordinator")
DATABASE = FOLDER / "coordinator.db"
WHO = "coordinator"
TICK_S = 3.0  # at most between two looks at the clock; a daemon on an idle machine takes 0.5


class Centre:
    """The coordinator: its disk, its process. on_change: called after all that it did."""

    def __init__(
        self, world: World, weather: Weather, study: Study, on_change: Callable[[], None]
    ) -> None:
        self.world, self.weather = world, weather
        self.disk = SimDisk(world, WHO, weather)
        self.driver: RoundDriver | None = None
        self.calm_since = math.inf
        self.over_since: float | None = None
        self._rng = world.rng(WHO)
        self._study, self._on_change = study, on_change
        self._paused_until = 0.0
        self._monotonic, self._wall = self._rng.uniform(0, 1e6), START
        self._waiting: list[tuple[SiteId, int, float, Respond]] = []
        self._complete: set[tuple[SiteId, UploadKey]] = set()
        self._due: float | None = None  # when it next looks at the clock

    # --- its process -------------------------------------------------------------------------

    def initialise(self) -> None:
        """What `init`, `invite`, the enrolments and the first start leave; before any fault."""
        self.disk.make_folder(FOLDER)
        self.disk.make_folder(FOLDER / "authority")
        state = CoordinatorState(FOLDER, self._clock, self.disk)
        for site, (pem, fingerprint) in self._study.enrolled.items():
            state.add_invitation(fingerprint=fingerprint, site=site, pem=pem, expires=4e9)
            state.redeem(fingerprint, "key", lambda _, p=pem, f=fingerprint: (p, f))  # type: ignore[misc]
        blobs = Blobs(FOLDER / "blobs", self.disk)
        model, weights, packed = first_model()
        blobs.put(weights)
        blobs.put(packed)
        state.pin_study(self._study.pinned, model)
        state.note("state", "running")
        state.close()

    def start(self) -> None:
        """Start the daemon, unless it runs."""
        if self.driver is not None:
            return
        self.world.say(WHO, "starts")
        self.disk.revive()
        self._monotonic = self._rng.uniform(0, 1e6) - self.world.now  # a machine that was rebooted
        self._wall += self._rng.choice([0.0, 0.0, 3600.0, -3600.0])
        self._guarded(self._start)

    def _start(self) -> None:
        state = CoordinatorState(FOLDER, self._clock, self.disk)
        state.audit.append("started", version="simulated")
        compare_books(state)
        blobs = Blobs(FOLDER / "blobs", self.disk)
        blobs.sweep()
        assert state.study() is not None
        self._state, self._blobs = state, blobs
        self.driver = RoundDriver(
            self._study.terms(), state, blobs, self._study.verify, clock=self._monotonic_clock
        )
        authority = next(iter(self._study.identities.values())).authority
        self._heads = HeadKeeper(
            state,
            self._study.pinned.digest,
            lambda: (self._study.coordinator, self._study.key),
            lambda: (authority,),
        )
        self._due = None
        self._tick_at(self.world.now)

    def kill(self) -> None:
        """kill -9."""
        if self.driver is not None:
            self._gone()
            self.world.after(until_restarted_s(self._rng), self.start)

    def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        self._paused_until = self.world.now + seconds

    def _guarded(self, action: Callable[[], Any]) -> Any:
        """Do something in the process; it may not survive that."""
        try:
            done = action()
        except Crash:
            self.world.say(WHO, "died")
            self._gone()
            self.world.after(until_restarted_s(self._rng), self.start)
            return None
        except (StateError, RoundFailed) as err:
            self.world.say(WHO, f"exits: {err}")
            self.world.counted["daemons that ended for the disk"] += 1
            late = self.world.now > self.calm_since + 1.0  # not of the storm's last moment
            if late or isinstance(err, RoundFailed):
                self.world.find(f"7: {WHO} ends: {err}")
            self._gone()
            self.world.after(self._rng.uniform(5.0, 30.0), self.start)
            return None
        except Exception as err:  # a bug: the daemon would end with a traceback
            self.world.find(f"7: {WHO} ends with {type(err).__name__}: {err}")
            return None
        self._look()
        return done

    def _gone(self) -> None:
        self.driver = None
        self.disk.crash()
        self._complete.clear()
        waiting, self._waiting = self._waiting, []
        for _, _, _, respond in waiting:
            if self._rng.random() < 0.7:  # the others hear nothing: the machine is off
                respond((False, Unreachable("the connection was reset")))

    def _look(self) -> None:
        """After everything that it does: answer those who wait."""
        driver = self.driver
        if driver is None:
            return
        self._on_change()
        if driver.over is not None and self.over_since is None:
            self.over_since = self.world.now
        still = []
        for site, after, until, respond in self._waiting:
            found = driver.poll(site, after)
            if found is None and self.world.now < until:
                still.append((site, after, until, respond))
            elif found is None:
                respond((True, Attendance(after)))
            elif isinstance(found, str):
                respond((True, Attendance(after, study_over=found)))
            else:
                respond((True, Attendance(found[0], instruction=found[1])))
        self._waiting = still

    def _tick_at(self, when: float) -> None:
        """Look at the clock then, if not before."""
        if self._due is None or when < self._due:
            self._due = when
            driver = self.driver
            self.world.at(when, lambda: self._tick(driver, when))

    def _tick(self, driver: RoundDriver | None, when: float) -> None:
        if driver is None or driver is not self.driver or when != self._due:
            return  # another process by now, or another plan
        self._due = None
        if self.world.now < self._paused_until:
            self._tick_at(self._paused_until)
        elif driver.over is None:
            pause = self._guarded(driver.tick)
            if driver is self.driver:
                self._tick_at(self.world.now + max(pause, TICK_S * self._rng.random()))
        elif self._waiting:
            self._look()
            self._tick_at(self.world.now + TICK_S)

    # --- calls -------------------------------------------------------------------------------

    def attend(self, site: SiteId, after: int, respond: Respond) -> None:
        def poll() -> None:
            self._waiting.append((site, after, self.world.now + POLL_S, respond))

        self._received(poll, respond)

    def call(self, site: SiteId, what: str, arguments: tuple[Any, ...], respond: Respond) -> None:
        def handle() -> None:
            try:
                value = self._handle(site, what, arguments)
            except StateError as err:  # our own fault is none of the caller's business
                self.world.say(WHO, f"fault: {err}")
                respond((False, Unreachable("the coordinator has a fault of its own")))
            except PrimiaError as err:
                self.world.say(WHO, f"refuses {what} of {site}: {err}")
                respond((False, err))
            else:
                self.world.say(WHO, f"takes {what} of {site}")
                respond((True, value))
            self._tick_at(self.world.now + 0.02)  # it was notified

        self._received(handle, respond)

    def _received(self, handle: Callable[[], None], respond: Respond) -> None:
        if self.world.now < self._paused_until:
            self.world.at(self._paused_until, lambda: self._received(handle, respond))
        elif self.driver is None:
            respond((False, Unreachable("connection refused")))
        else:
            self._guarded(handle)
            if self.driver is not None:
                self._tick_at(self.world.now + TICK_S)

    def _handle(self, site: SiteId, what: str, arguments: tuple[Any, ...]) -> Any:
        """What `coordinator.service.Service` does."""
        driver = self.driver
        assert driver is not None
        match what:
            case "get_study":
                return self._study.bundle
            case "fetch_model":
                return self._model(*arguments)
            case "upload":
                return self._upload(driver, site, *arguments)
            case "last_heads":
                return self._heads.last(site, *arguments)
            case "countersign":
                certificate = self._study.identities[site].certificate
                return self._heads.countersign(site, certificate, *arguments)
            case _:
                driver.answer(site, *arguments)
                return None

    def _model(self, digest: Digest) -> bytes:
        if not self._state.has_model(digest):
            raise PeerError("no such model in this study; ask for the round's own")
        return self._blobs.get(digest)

    def _upload(self, driver: RoundDriver, site: SiteId, key: UploadKey, data: bytes) -> None:
        if (site, key) in self._complete or driver.holds_update(site, key.round, key.session):
            return
        assert len(data) == driver.upload_limit(site, key.round, key.session)
        driver.progress(site)
        driver.update_arrived(site, key.round, data, sha256(data))
        self._complete.add((site, key))

    # --- clocks ------------------------------------------------------------------------------

    def _monotonic_clock(self) -> float:
        return self._monotonic + self.world.now

    def _clock(self) -> float:
        return self._wall + self.world.now
