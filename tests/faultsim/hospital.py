"""A worker process in the simulation: started, killed and started again on the same disk.

`_run` is what `worker.daemon` does, with ten random floats in place of films and training.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np

from primia.config import plan_digest
from primia.config.site import DataSource, SiteConfig
from primia.errors import StateError, Unreachable
from primia.federation.bounded import reach_of_step
from primia.learning.terms import OnStep
from primia.privacy import Ledger
from primia.protocol.messages import RoundId, RoundKind
from primia.storage.blobs import Blobs
from primia.types import Digest, Ring, SiteId, sha256
from tests.faultsim.disk import SimDisk
from tests.faultsim.network import SimLink
from tests.faultsim.study import CAPS, CONTRIBUTION, METRICS, OPTIMISER, PARAMETERS, Study
from tests.faultsim.weather import Weather, until_restarted_s
from tests.faultsim.world import Crash, Task, World, this_task
from worker.approval import Person, Subject, approve, policy_of
from worker.gate import ApprovalGate
from worker.guard import ModelGuard
from worker.link import Pause
from worker.participant import Participant
from worker.state import WorkerState
from worker.study import Peers, checked_plan
from worker.work import LocalWork, check_books

MODEL_BYTES = 1 << 12
START = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
_OFFERED = (
    "SELECT digest FROM updates WHERE retired_at IS NULL "
    "AND number = (SELECT max(number) FROM updates)"
)
T = TypeVar("T")


class SimLearning:
    """Ten floats, noised afresh whenever they are asked for; it takes a while."""

    def __init__(self, hospital: Hospital) -> None:
        self._hospital = hospital
        self._world = hospital.world

    def contribute(self, round_id: RoundId, model: bytes, on_step: OnStep) -> Ring:
        assert sha256(model) == round_id.model
        rng, task = self._hospital.rng, this_task()
        assert task is not None
        seconds = rng.uniform(0.5, 4.0)
        if self._hospital.weather.slow_training > rng.random():
            seconds = rng.uniform(30.0, 150.0)
            self._world.inject("slow training", self._hospital.site, f"{seconds:.0f} s")
        for done in range(4):
            task.sleep(seconds / 4)
            on_step(done, 4)
        update, counts = None, np.zeros(METRICS, np.int64)
        if round_id.kind is not RoundKind.EVALUATE:
            update = np.array([rng.gauss(0, 0.5) for _ in range(PARAMETERS)], np.float32)
        if round_id.kind is not RoundKind.RETRAIN:
            counts = np.array([rng.randrange(1, 99) for _ in range(METRICS)], np.int64)
        words, _ = CONTRIBUTION.encode(update, weight=1, metrics=counts, entropy=rng.randbytes)
        self._hospital.made[sha256(words.tobytes())] = words
        return words


class SimStop:
    """What a `threading.Event` is to the daemon: SIGTERM sets it, waiting is simulated time."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        """SIGTERM."""
        self._set = True

    def wait(self, timeout: float) -> bool:
        task = this_task()
        assert task is not None
        if not self._set:
            task.sleep(timeout)
        return self._set


class Hospital:
    """One site: its disk, its process, and what the simulation knows of it.

    made: every update it ever computed, by digest. new_link: a connection of a new process.
    """

    def __init__(
        self,
        world: World,
        weather: Weather,
        study: Study,
        site: SiteId,
        new_link: Callable[[Hospital], SimLink],
    ) -> None:
        self.world, self.weather, self.site = world, weather, site
        self.rng = world.rng(f"hospital {site}")
        self.disk = SimDisk(world, site, weather)
        self.folder = Path("/") / site
        self.made: dict[Digest, Ring] = {}
        self.done = False
        self.participant: Participant | None = None
        self._study, self._new_link = study, new_link
        config = SiteConfig(data=DataSource(kind="folder", path=Path("films")), caps=CAPS)
        self._subject = Subject(
            plan_digest(study.plan), sha256(site.encode()), policy_of(config), 20, 20
        )
        self._task: Task | None = None
        self._stop = SimStop()
        self._wall = START + self.rng.uniform(-600, 600)

    # --- its process -------------------------------------------------------------------------

    def enrol(self) -> None:
        """The books that enrolment starts, and the approval; before any fault."""
        self.disk.make_folder(self.folder)
        state = WorkerState(self.folder, self._clock, self.disk)
        approve(state, self._subject, Person("A. Steward", "steward", "steward"))
        state.close()
        Ledger(self.folder / "ledger.db", create=True, disk=self.disk).close()
        Blobs(self.folder / "blobs", self.disk)

    def start(self) -> None:
        """Start the daemon, unless it runs."""
        if self.running or self.done:
            return
        self.world.say(self.site, "starts")
        self.disk.revive()
        self._check_blobs()
        self._stop = SimStop()
        self._wall += self.rng.choice([0.0, 0.0, 3600.0, -3600.0])  # somebody set the clock
        self._task = Task(self.world, self._body)
        self._task.switch()

    def _check_blobs(self) -> None:
        """The updates that its rows offer again are whole on disk."""
        rows = self.disk.rows_after_the_worst(self.folder / "worker.db", _OFFERED)
        for (digest,) in rows:
            data = self.disk.file_after_the_worst(self.folder / "blobs" / digest)
            if sha256(data or b"") != digest:
                self.world.find(f"7: {self.site} has a row for {digest[:8]} and no whole blob")

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._task is not None and not self._task.dead

    def kill(self) -> None:
        """kill -9."""
        if self._task is not None:
            self._task.kill()

    def terminate(self) -> None:
        """SIGTERM."""
        self._stop.set()

    def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        if self._task is not None:
            self._task.paused_until = self.world.now + seconds

    def _body(self) -> None:
        again_s: float | None = until_restarted_s(self.rng)
        let_go = self.disk.close
        try:
            self._run()
            if self._stop.is_set():
                self.world.say(self.site, "stopped")
            else:
                self.done, again_s = True, None
                self.world.say(self.site, "the study is over")
        except Crash:
            self.world.say(self.site, "died")
            let_go = self.disk.crash
        except StateError as err:
            self.world.say(self.site, f"exits: {err}")
            self.world.counted["daemons that ended for the disk"] += 1
            again_s = self.rng.uniform(5.0, 30.0)  # until its operator has looked
            if not self.weather.stormy:
                self.world.find(f"7: {self.site} cannot use its books on a disk in order: {err}")
        except Exception as err:  # a bug: the daemon would end with a traceback
            self.world.find(f"7: {self.site} ends with {type(err).__name__}: {err}")
        self.participant = None
        let_go()
        if again_s is not None:
            self.world.after(again_s, self.start)

    def discard(self) -> None:
        """The history has ended."""
        self.done = True
        self.kill()

    def _run(self) -> None:
        study, stop = self._study, self._stop
        state = WorkerState(self.folder, self._clock, self.disk)
        ledger = Ledger(self.folder / "ledger.db", disk=self.disk)
        check_books(ledger, state, self._subject.plan, self.site)
        state.audit.append("started", version="simulated")
        link = self._new_link(self)
        bundle = self._until_answered(link.get_study)
        if bundle is None:
            return
        identity = study.identities[self.site]
        plan = checked_plan(bundle, identity, CAPS, state)
        peers = Peers(identity, state)
        peers.learn(bundle.sites, plan)
        blobs = Blobs(self.folder / "blobs", self.disk)
        blobs.sweep()
        work = LocalWork(
            plan=plan,
            contribution=CONTRIBUTION,
            caps=CAPS,
            learning=SimLearning(self),
            state=state,
            ledger=ledger,
            blobs=blobs,
            guard=ModelGuard(
                np.zeros(PARAMETERS, np.float32),
                reach_of_step(
                    OPTIMISER,
                    CONTRIBUTION.longest_mean(plan.schedule.quorum),
                    parameters=PARAMETERS,
                    rounds=plan.rounds,
                ),
                state.models,
                blobs,
            ),
            site=self.site,
            now=lambda: datetime.fromtimestamp(self._clock(), UTC),
        )
        self.participant = Participant(
            identity,
            peers,
            work,
            link,
            stop,
            MODEL_BYTES,
            gate=ApprovalGate(state, self._subject, ledger.withdrawals),
            entropy=self.rng.randbytes,
            jitter=self.rng.uniform,
        )
        assert self.participant.serve()

    def _until_answered(self, call: Callable[[], T]) -> T | None:
        pause = Pause(self.rng.uniform)
        while not self._stop.is_set():
            try:
                return call()
            except Unreachable as err:
                pause.wait(self._stop, str(err))
        return None

    def _clock(self) -> float:
        return self._wall + self.world.now
