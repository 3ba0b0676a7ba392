"""The worker as a process: a thin loop around the site's round machine.

It waits, hands over, carries out. Each wait has a deadline, so SIGTERM is heard within seconds, in
training after the step at hand. A failed round never ends the daemon; a bug still does, loudly.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog

from primia.config.plan import StudyPlan
from primia.config.site import SiteConfig
from primia.errors import (
    DataError,
    IdentityError,
    PeerError,
    PolicyRefused,
    PrimiaError,
    RoundFailed,
    StateError,
    Unreachable,
)
from primia.federation.optimiser import pack_weights
from primia.identity.signing import sign
from primia.imaging.readers import load_cohort
from primia.learning.models import build, flatten
from primia.privacy.ledger import Head, Ledger
from primia.protocol.messages import (
    AdvertiseKeys,
    Closed,
    Declined,
    Instruction,
    RoundId,
    ShareSecrets,
    Train,
)
from primia.protocol.site import SiteRound
from primia.protocol.site_events import (
    CannotTakePart,
    Command,
    Forget,
    Remember,
    Send,
    TrainLocally,
    UpdateReady,
    Upload,
)
from primia.storage.blobs import Blobs
from primia.storage.folder import StateFolder
from primia.study import contribution
from primia.types import Digest, SiteId
from primia.wire.client import FederationClient
from primia.wire.handler import UploadKey
from primia.wire.labels import ROUND_LABEL
from worker.home import SiteIdentity, load
from worker.state import StoredUpdate, WorkerState
from worker.study import Peers, checked_plan
from worker.work import LocalWork

log = structlog.get_logger()

SHORTEST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
T = TypeVar("T")


class Stopped(Exception):  # noqa: N818  (not an error: the operator asked for it)
    """SIGTERM or SIGINT came while local work was going on."""


def run(folder: Path, config: SiteConfig) -> None:
    """Take part in rounds until the study is over or a signal comes.

    Raises what a person has to mend: StateError, IdentityError, ConfigError, DataError, and
    PolicyRefused for a plan that this site does not accept.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with StateFolder(folder):
        identity = load(folder)
        state = WorkerState(folder)
        try:
            with Ledger(folder / "ledger.db") as ledger:
                _check_ledger(ledger, state)
                link = FederationClient(identity.address, identity.tls())
                hanging_up = threading.Thread(
                    target=lambda: (stop.wait(), link.close()), daemon=True
                )
                hanging_up.start()
                try:
                    _take_part(folder, config, identity, state, ledger, link, stop)
                finally:
                    stop.set()
                    hanging_up.join()
        finally:
            state.close()
    log.info("stopped")


def _check_ledger(ledger: Ledger, state: WorkerState) -> None:
    """The ledger must hold all that this site has released before, or nothing starts."""
    rows, digest = (state.noted("ledger_head") or "0:").split(":")
    ledger.verify(at_least=Head(int(rows), Digest(digest)))


def _take_part(
    folder: Path,
    config: SiteConfig,
    identity: SiteIdentity,
    state: WorkerState,
    ledger: Ledger,
    link: FederationClient,
    stop: threading.Event,
) -> None:
    import torch

    torch.set_num_threads(config.compute.threads)
    bundle = _until_answered(link.get_study, stop)
    if bundle is None:
        return
    plan = checked_plan(bundle, identity, config.caps, state)
    peers = Peers(identity, state)
    peers.learn(bundle.sites, plan)
    cohort = load_cohort(
        config.data,
        classes=plan.model.classes,
        input_size=plan.model.input_size,
        min_patients=config.caps.min_patients,
        split_key=(folder / "split.key").read_bytes(),
    )
    for warning in cohort.warnings:
        log.warning("films", warning=warning)
    parameters, model_bytes = _model_size(plan)
    blobs = Blobs(folder / "blobs")
    blobs.sweep()
    work = LocalWork(
        plan=plan,
        contribution=contribution(plan, parameters),
        caps=config.caps,
        cohort=cohort,
        state=state,
        ledger=ledger,
        blobs=blobs,
        device=_device(config.compute.device),
    )
    log.info("taking_part", site=identity.site, coordinator=identity.address)
    Participant(identity.site, identity, plan, peers, work, state, link, stop, model_bytes).serve()


def _model_size(plan: StudyPlan) -> tuple[int, int]:
    """Weights of the plan's network, and bytes of a model on the wire."""
    terms = plan.model
    weights = flatten(
        build(
            terms.name,
            input_size=terms.input_size,
            channels=terms.channels,
            classes=len(terms.classes),
        )
    )
    return weights.size, len(pack_weights(weights))


def _device(wanted: str) -> str:
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise StateError(f"compute.device {wanted}: no CUDA device here; use auto or cpu")
    return wanted


def _until_answered(call: Callable[[], T], stop: threading.Event) -> T | None:
    """Repeat a call while the coordinator is away; None when stopped."""
    pause = Pause()
    while not stop.is_set():
        try:
            return call()
        except Unreachable as err:
            if not stop.is_set():
                pause.wait(stop, str(err))
    return None


class Pause:
    """Back-off with full jitter, so that sites cut off together do not come back together."""

    def __init__(self) -> None:
        self._longest_s = SHORTEST_PAUSE_S

    def reset(self) -> None:
        """The last call went well."""
        self._longest_s = SHORTEST_PAUSE_S

    def wait(self, stop: threading.Event, why: str) -> None:
        """Say why and when the next try is, then wait or be stopped."""
        seconds = random.uniform(SHORTEST_PAUSE_S / 2, self._longest_s)  # noqa: S311
        self._longest_s = min(LONGEST_PAUSE_S, 2 * self._longest_s)
        log.warning("coordinator_unreachable", why=why, next_try_s=round(seconds, 1))
        stop.wait(seconds)


class Participant:
    """The loop: one instruction at a time, from the coordinator through the machine and back."""

    def __init__(
        self,
        site: SiteId,
        identity: SiteIdentity,
        plan: StudyPlan,
        peers: Peers,
        work: LocalWork,
        state: WorkerState,
        link: FederationClient,
        stop: threading.Event,
        model_bytes: int,
    ) -> None:
        self._site = site
        self._identity = identity
        self._plan = plan
        self._peers = peers
        self._work = work
        self._state = state
        self._link = link
        self._stop = stop
        self._model_bytes = model_bytes
        self._round: SiteRound | None = None
        self._update: StoredUpdate | None = None
        self._session = b""

    def serve(self) -> None:
        """Until the study is over or `stop` is set.

        Raises IdentityError when the coordinator refuses this site, StateError for our own disk.
        """
        after, pause = 0, Pause()
        while not self._stop.is_set():
            try:
                news = self._link.attend(after)
                pause.reset()
                if news.study_over is not None:
                    log.info("study_over", reason=news.study_over)
                    return
                if news.instruction is not None:
                    self._obey(news.instruction)
                    after = news.serial
            except Stopped:
                return
            except Unreachable as err:
                if not self._stop.is_set():
                    pause.wait(self._stop, str(err))
            except (PeerError, RoundFailed) as err:
                log.warning("instruction_refused_by_coordinator", reason=str(err))
                pause.wait(self._stop, str(err))

    def _obey(self, instruction: Instruction) -> None:
        """Carry out one instruction; what this site refuses becomes a Declined, and a log line."""
        round_id = instruction.round
        if isinstance(instruction, Closed):
            self._close(instruction)
            return
        try:
            self._learn_peers(instruction)
            if self._round is None or self._round.round != round_id:
                self._begin(round_id)
            self._do(instruction)
        except (PolicyRefused, PeerError, DataError, IdentityError) as err:
            if isinstance(err, IdentityError) and not isinstance(instruction, ShareSecrets):
                raise
            self._refuse(round_id, err)

    def _learn_peers(self, instruction: Instruction) -> None:
        """Sites may have enrolled since we started; ask before their signatures are needed."""
        if isinstance(instruction, AdvertiseKeys) and not self._peers.knows(
            set(instruction.cohort)
        ):
            self._peers.learn(self._link.get_study().sites, self._plan)

    def _begin(self, round_id: RoundId) -> None:
        """A machine for a new attempt; what was promised before comes from disk."""
        self._update = self._state.update_for(round_id)
        self._session = b""
        self._round = SiteRound(
            me=self._site,
            round=round_id,
            floor=max(self._work.caps.min_cohort, self._plan.schedule.quorum),
            roster=self._plan.site_ids,
            sign=lambda statement: sign(self._identity.key, ROUND_LABEL, statement),
            verify=self._peers.verify,
            entropy=os.urandom,
            last_attempt=self._state.last_attempt(),
            signed_before=None if self._update is None else self._update.signed,
        )

    def _do(self, instruction: Instruction) -> None:
        assert self._round is not None  # noqa: S101  (`_obey` has begun it)
        self._session = getattr(instruction, "session", self._session)
        if not isinstance(instruction, Train) and self._round.phase == "fresh":
            # We were restarted after Ready: the stored update is offered again first.
            self._carry_out(self._round.handle(Train(instruction.round)))
        self._carry_out(self._round.handle(instruction))

    def _carry_out(self, commands: list[Command]) -> None:
        assert self._round is not None  # noqa: S101  (`_obey` has begun it)
        for command in commands:
            match command:
                case TrainLocally(round_id):
                    self._carry_out(self._train(round_id))
                case Remember(record):
                    self._state.remember(record, self._update)
                case Send(answer):
                    self._retrying(lambda answer=answer: self._link.answer(answer))
                case Upload(masked):
                    key = UploadKey(self._round.round, self._session)
                    self._retrying(
                        lambda key=key, masked=masked: self._link.upload(key, masked.data)
                    )
                    log.info("update_sent", round=self._round.round.number)
                case Forget():
                    self._round = None

    def _train(self, round_id: RoundId) -> list[Command]:
        """Local work; a refusal by data or budget is answered, not fatal."""
        assert self._round is not None  # noqa: S101  (`_obey` has begun it)
        log.info("working", round=round_id.number, attempt=round_id.attempt, kind=round_id.kind)
        try:
            vector, self._update = self._work.prepare(round_id, self._fetch, self._on_step)
        except (PolicyRefused, DataError) as err:
            log.error("cannot_take_part", round=round_id.number, reason=str(err))
            return self._round.handle(CannotTakePart(str(err)))
        head = self._work.ledger.head()
        self._state.note("ledger_head", f"{head.rows}:{head.digest}")
        return self._round.handle(UpdateReady(vector))

    def _fetch(self, digest: Digest) -> bytes:
        return self._link.fetch_model(digest, max_bytes=self._model_bytes)

    def _on_step(self, _done: int, _of: int) -> None:
        if self._stop.is_set():
            raise Stopped

    def _retrying(self, call: Callable[[], None]) -> None:
        """Repeat a call that the link broke; it is answered from the record. Bounded by `stop`."""
        pause = Pause()
        while True:
            try:
                return call()
            except Unreachable as err:
                if self._stop.is_set():
                    raise Stopped from err
                pause.wait(self._stop, str(err))

    def _refuse(self, round_id: RoundId, err: PrimiaError) -> None:
        log.error("round_left", round=round_id.number, attempt=round_id.attempt, reason=str(err))
        promised = self._update is not None and self._update.signed is not None
        if promised and isinstance(err, PolicyRefused):
            # It was promised to a sum with sites that did not come back, and may join no other;
            # the next attempt trains anew and charges that, too.
            assert self._update is not None  # noqa: S101  (`promised` says so)
            self._state.retire_update(self._update)
        try:
            self._retrying(lambda: self._link.answer(Declined(round_id, _outward(err))))
        except (PeerError, RoundFailed) as late:
            log.info("decline_not_needed", reason=str(late))

    def _close(self, closed: Closed) -> None:
        if self._round is not None and self._round.round == closed.round:
            self._carry_out(self._round.handle(closed))
        log.info(
            "round_closed",
            round=closed.round.number,
            attempt=closed.round.attempt,
            outcome=closed.outcome.value,
            reason=closed.reason,
        )


def _outward(err: PrimiaError) -> str:
    """What the coordinator may hear: no path, no count, no line of a table."""
    if isinstance(err, DataError):
        return "its films cannot be used at present; its operator sees why"
    return str(err)
