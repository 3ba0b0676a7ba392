"""The loop of a worker: a thin driver around the site's round machine.

It waits, hands over, carries out. A failed round never ends it; a bug still does, loudly.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import structlog

from primia import tally
from primia.config.plan import plan_digest
from primia.errors import (
    BudgetExhausted,
    DataError,
    IdentityError,
    PeerError,
    PolicyRefused,
    PrimiaError,
    RoundFailed,
    StateError,
    Unreachable,
)
from primia.identity.signing import sign
from primia.protocol.messages import (
    AdvertiseKeys,
    Closed,
    Declined,
    Instruction,
    Reveal,
    RoundId,
    RoundKind,
    ShareSecrets,
    SignSurvivors,
    Train,
)
from primia.protocol.site import PromisedElsewhere, SitePhase, SiteRound
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
from primia.protocol.site_secrets import Entropy
from primia.secagg.packing import pack
from primia.types import Digest, SiteId
from primia.wire.handler import Attendance, UploadKey
from primia.wire.labels import ROUND_LABEL
from worker.approval import NotApproved
from worker.heads import Heads
from worker.home import SiteIdentity
from worker.journal import SEED_BYTES, Journal, seeded_entropy
from worker.limits import memory_told
from worker.link import Gate, Jitter, Link, Pause, Stop, Stopped
from worker.state import StoredUpdate
from worker.study import Peers
from worker.work import LocalWork, check_round

if TYPE_CHECKING:
    from worker.renewal import Renewal

log = structlog.get_logger()

OVER = "study_over"  # noted once the coordinator said so: it ends, and nobody answers any more
T = TypeVar("T")


class Participant:
    """The loop: one instruction at a time, from the coordinator through the machine and back."""

    def __init__(
        self,
        identity: SiteIdentity,
        peers: Peers,
        work: LocalWork,
        link: Link,
        stop: Stop,
        model_bytes: int,
        *,
        gate: Gate,
        entropy: Entropy = os.urandom,
        jitter: Jitter = random.uniform,
        renewal: Renewal | None = None,
    ) -> None:
        """model_bytes: the most that a global model may have."""
        self._identity = identity
        self._peers = peers
        self._work = work
        self._state = work.state
        self._link = link
        self._stop = stop
        self._model_bytes = model_bytes
        self._entropy = entropy
        self._jitter = jitter
        self._gate = gate
        self._heads = Heads(identity, plan_digest(work.plan), work.state, work.ledger, link)
        self._last_attempt = 0  # that we heard of
        self._to_countersign = True
        self._renewal = renewal
        self._round: SiteRound | None = None
        self._update: StoredUpdate | None = None
        self._session = b""
        self._seed = b""
        self._signed_before: tuple[SiteId, ...] | None = None

    def serve(self) -> bool:
        """Until the study is over or `stop` is set, or people here say no.

        Returns whether all is done; False when the gate closed and may open again.
        Raises IdentityError when the coordinator refuses this site, StateError for our own disk.
        """
        after, pause = 0, Pause(self._jitter)
        try:
            self._retrying(self._heads.check)  # before anything is trained
        except Stopped:
            return True
        while not self._stop.is_set():
            if not self._bound and not self._gate.is_open:
                self._leave()
                return False
            if self._round is None and not self._gate.in_hours:
                return False
            try:
                self._countersign()
                news = self._link.attend(after)
                if news.study_over is None:  # else the coordinator may be gone any moment
                    self._look(news)
                tally.put("contact", time.monotonic())
                if news.study_over is not None:
                    self._to_countersign = True  # the last attempt's end may not have been told
                    self._countersign()
                    self._state.journal.forget()
                    self._state.note(OVER, news.study_over)
                    log.info("study_over", reason=news.study_over)
                    return True
                if news.instruction is not None:
                    self._obey(news.instruction)
                    after = news.serial
                pause.reset()  # not before: what is refused again and again must not be hurried
            except Stopped:
                return True
            except Unreachable as err:
                if not self._stop.is_set():
                    pause.wait(self._stop, str(err))
            except (PeerError, RoundFailed) as err:
                log.warning("instruction_refused_by_coordinator", reason=str(err))
                pause.wait(self._stop, str(err))
        return True

    def _leave(self) -> None:
        """People here said no in the middle of a round: the others need not wait for us."""
        machine, self._round = self._round, None
        waited_for = (SitePhase.READY, SitePhase.ADVERTISED, SitePhase.SHARED)
        if machine is None or machine.phase not in waited_for:
            return
        try:
            self._gate.check()
        except PolicyRefused as err:
            with suppress(Stopped):
                self._refuse(machine.round, err)

    @property
    def _bound(self) -> bool:
        """Whether our update is in a sum that the others wait for us to open."""
        machine = self._round
        return machine is not None and machine.phase in (SitePhase.UPLOADED, SitePhase.SIGNED)

    def _countersign(self) -> None:
        """Hand our heads over when an attempt has ended; when that fails, after the next call."""
        if self._to_countersign:
            self._to_countersign = not self._heads.exchange(self._last_attempt)

    def _look(self, news: Attendance) -> None:
        """Certificates and roster, before the next instruction is carried out."""
        if self._renewal is not None:
            at_hand = None if self._round is None else self._round.round
            next_one = at_hand if news.instruction is None else news.instruction.round
            between = at_hand is None or next_one != at_hand
            self._renewal.look(news.directory, between_rounds=between)
            self._heads.identity = self._renewal.identity

    def _obey(self, instruction: Instruction) -> None:
        """Carry out one instruction; what this site refuses becomes a Declined, and a log line."""
        self._last_attempt = instruction.round.attempt
        tally.put("round", instruction.round.number)
        tally.say("phase", type(instruction).__name__)
        tally.put("phase_since", time.monotonic())
        if isinstance(instruction, Closed):
            self._close(instruction)
            return
        if self._round is not None and self._round.round != instruction.round:
            # The next one was opened before we asked how the last one ended.
            self._state.journal.close(self._round.round.attempt)
            self._to_countersign = True
        try:
            if not isinstance(instruction, SignSurvivors | Reveal):  # see `_bound`
                self._gate.check()
            self._learn_peers(instruction)
            machine = self._round
            if machine is None or machine.round != instruction.round:
                machine = self._round = self._begin(instruction.round)
            self._session = getattr(instruction, "session", self._session)
            if machine.phase is SitePhase.FRESH and not isinstance(instruction, Train):
                # We were restarted after Ready: the stored update is offered again first.
                self._carry_out(machine, machine.handle(Train(instruction.round)))
            before = machine.phase
            commands = machine.handle(instruction)
            if machine.phase is not before:  # a repeat is on record, and answered from memory
                self._keep(instruction)
            self._carry_out(machine, commands)
        except (PolicyRefused, PeerError, DataError, IdentityError) as err:
            if isinstance(err, IdentityError) and not isinstance(instruction, ShareSecrets):
                raise
            self._refuse(instruction.round, err)

    def _learn_peers(self, instruction: Instruction) -> None:
        """Sites may have enrolled since we started; ask before their signatures are needed."""
        if isinstance(instruction, AdvertiseKeys) and not self._peers.knows(
            set(instruction.cohort)
        ):
            self._peers.learn(self._link.get_study().sites, self._work.plan)

    def _begin(self, round_id: RoundId) -> SiteRound:
        """A machine for an attempt; what was promised before comes from disk.

        One that this site was in when it crashed goes on where it was. One that it left for
        another is not gone back to: its update may have been replaced since.
        """
        self._round, self._update, self._session = None, None, b""
        check_round(round_id, self._work.plan)
        self._state.check_model(round_id)
        journal = self._state.journal.of(round_id)
        if journal is not None:
            self._work.check_resumable(self._state.update(journal.update))
            try:
                return self._resume(journal)
            except (PeerError, PolicyRefused, StateError) as err:
                log.error("round_not_resumed", round=round_id.number, reason=str(err))
        self._state.journal.forget()
        self._update = self._work.reusable(round_id)
        self._seed = self._entropy(SEED_BYTES)
        self._signed_before = None if self._update is None else self._update.signed
        return self._machine(round_id, self._state.last_attempt())

    def _resume(self, journal: Journal) -> SiteRound:
        """The machine as it was: the same update, entropy and instructions. Nothing is sent."""
        self._update = self._state.update(journal.update)
        self._seed, self._signed_before = journal.seed, journal.signed_before
        # Its keys were made for this attempt, and are these.
        machine = self._machine(
            journal.round, min(self._state.last_attempt(), journal.round.attempt - 1)
        )
        machine.handle(UpdateReady(self._work.vector(self._update)))
        for instruction in journal.instructions:
            machine.handle(instruction)
            self._session = getattr(instruction, "session", self._session)
        signed = self._state.promised(journal.round.attempt, "SurvivorsSigned")
        if signed and machine.phase not in (SitePhase.SIGNED, SitePhase.REVEALED):
            raise StateError("its record is older than what this site has signed in it")
        log.info("round_resumed", round=journal.round.number, attempt=journal.round.attempt)
        return machine

    def _machine(self, round_id: RoundId, last_attempt: int) -> SiteRound:
        plan = self._work.plan
        return SiteRound(
            me=self._identity.site,
            round=round_id,
            layout=self._work.contribution.layout,
            floor=self._work.caps.min_cohort,
            plan_floor=plan.schedule.quorum,
            roster=plan.site_ids,
            sign=lambda statement: sign(self._identity.key, ROUND_LABEL, statement),
            verify=self._peers.verify,
            entropy=seeded_entropy(self._seed),
            last_attempt=last_attempt,
            signed_before=self._signed_before,
            cipher=plan.aggregation.mask_cipher,
            groups=plan.aggregation.groups,
            threads=len(os.sched_getaffinity(0)),
        )

    def _keep(self, instruction: Instruction) -> None:
        """Make an accepted instruction durable before its answer leaves; from the keys on.

        Only when it is new: a journal that was begun anew with keys in use would take this site
        back to them, to mask among others.
        """
        if isinstance(instruction, AdvertiseKeys):
            assert self._update is not None  # Ready was said
            self._state.journal.open(
                Journal(
                    instruction.round,
                    self._seed,
                    self._update.id,
                    self._signed_before,
                    (instruction,),
                )
            )
        elif not isinstance(instruction, Train):
            self._state.journal.add(instruction)

    def _carry_out(self, machine: SiteRound, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case TrainLocally(round_id):
                    self._carry_out(machine, self._train(machine, round_id))
                case Remember(record):
                    self._state.remember(record, self._update)
                case Send(answer):
                    self._retrying(partial(self._link.answer, answer))
                case Upload(masked):
                    key = UploadKey(machine.round, self._session)
                    self._note_leaving(machine.round)
                    packed = pack(masked, self._work.contribution.layout)
                    self._retrying(partial(self._link.upload, key, packed))
                    log.info("update_sent", round=machine.round.number)
                case Forget():
                    self._round = None
                    self._state.journal.close(machine.round.attempt)

    def _note_leaving(self, round_id: RoundId) -> None:
        assert self._update is not None
        self._state.audit.append(
            "update_sent",
            round=round_id.number,
            attempt=round_id.attempt,
            update=self._update.digest,
        )

    def _note_left(self, round_id: RoundId, err: PrimiaError) -> None:
        """What we left for, as the coordinator may hear it: the log may be handed on."""
        self._state.audit.append(
            "round_left", round=round_id.number, attempt=round_id.attempt, reason=_outward(err)
        )

    def _train(self, machine: SiteRound, round_id: RoundId) -> list[Command]:
        """Local work; a refusal by data or budget is answered, not fatal."""
        log.info("working", round=round_id.number, attempt=round_id.attempt, kind=round_id.kind)
        try:
            self._gate.check_hours()
            with memory_told():
                vector, self._update = self._work.prepare(round_id, self._fetch, self._on_step)
        except (PolicyRefused, DataError, PeerError) as err:
            log.error("cannot_take_part", round=round_id.number, reason=str(err))
            self._note_left(round_id, err)
            return machine.handle(CannotTakePart(_outward(err)))
        return machine.handle(UpdateReady(vector))

    def _fetch(self, digest: Digest) -> bytes:
        return self._retrying(partial(self._link.fetch_model, digest, max_bytes=self._model_bytes))

    def _on_step(self, _done: int, _of: int) -> None:
        if self._stop.is_set():
            raise Stopped
        self._gate.check_hours()  # they may end in mid-training: nothing of it is kept

    def _retrying(self, call: Callable[[], T]) -> T:
        """Repeat a call that the link broke; it is answered from the record. Bounded by `stop`."""
        pause = Pause(self._jitter)
        while True:
            try:
                return call()
            except Unreachable as err:
                if self._stop.is_set():
                    raise Stopped from err
                pause.wait(self._stop, str(err))

    def _refuse(self, round_id: RoundId, err: PrimiaError) -> None:
        log.error("round_left", round=round_id.number, attempt=round_id.attempt, reason=str(err))
        self._note_left(round_id, err)
        if self._round is not None and self._round.round == round_id:
            self._round.leave()
        self._state.journal.close(round_id.attempt)
        update = self._update
        if isinstance(err, PromisedElsewhere) and round_id.kind is RoundKind.RETRAIN:
            # The sites it was promised to did not come back, and it may join no other sum; the
            # next attempt trains anew and charges that, too. An update that comes with counts
            # waits for those sites: made anew, the same model would be counted in two sums.
            assert update is not None
            self._state.retire_update(update)
        try:
            self._retrying(lambda: self._link.answer(Declined(round_id, _outward(err))))
        except (PeerError, RoundFailed) as late:
            log.info("decline_not_needed", reason=str(late))

    def _close(self, closed: Closed) -> None:
        if self._round is not None and self._round.round == closed.round:
            self._carry_out(self._round, self._round.handle(closed))
        self._to_countersign = True
        tally.add(f"attempts_{closed.outcome.value}")
        self._state.journal.close(closed.round.attempt)  # also of a round left before a restart
        log.info(
            "round_closed",
            round=closed.round.number,
            attempt=closed.round.attempt,
            outcome=closed.outcome.value,
            reason=closed.reason,
        )


def _outward(err: PrimiaError) -> str:
    """What the coordinator may hear: no path, no count, no line of a table, no figure of ours."""
    if isinstance(err, BudgetExhausted):
        return "its privacy budget for these patients is spent"
    if isinstance(err, NotApproved):
        return "its people have not approved this plan and its films, or not any more"
    if isinstance(err, DataError):
        return "its films cannot be used at present; its operator sees why"
    return str(err)
