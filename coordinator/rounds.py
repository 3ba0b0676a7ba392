"""The driver: one round at a time through the machine, commands carried out, ends committed.

gRPC threads call in (`attend`, `answer`, `update_arrived`); one thread of the daemon runs `run`,
which opens attempts and lets time pass. One lock guards the machine. What has to survive is in
`CoordinatorState`: a coordinator that dies once all vectors are summed goes on with the same
attempt (`coordinator.resuming`); before that it opens the same round again as a new attempt, and
sites that trained already offer the update they stored.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from coordinator import resuming
from coordinator.agenda import Agenda
from coordinator.bench import Benched, bench
from coordinator.counting import count
from coordinator.reasons import (
    AWAY,
    BENCHED,
    DISCARDED,
    LATE_ANSWER,
    NOT_ENOUGH,
    RESTARTED,
    WORKER_RESTARTED,
)
from coordinator.rows import AttemptRow, Participation, Verdict
from coordinator.state import CoordinatorState
from coordinator.terms import StudyTerms
from primia.errors import PeerError, PrimiaError, RoundFailed, StateError
from primia.protocol.coordinator import FINAL, CoordinatorRound
from primia.protocol.events import (
    Abort,
    Answered,
    Command,
    Commit,
    Dropped,
    Event,
    Loss,
    Phase,
    Progress,
    RoundTerms,
    SiteLost,
    Tick,
    UpdateArrived,
    Verify,
)
from primia.protocol.messages import (
    Answer,
    Closed,
    Instruction,
    Outcome,
    RevealedShares,
    RoundId,
)
from primia.secagg.packing import Packed
from primia.storage.blobs import Blobs
from primia.types import Digest, SiteId

log = structlog.get_logger()

ATTENDING_S = 45.0  # a site heard of this recently is there; a long poll takes 20 s
LONGEST_PAUSE_S = 60.0  # between an aborted attempt and the next
SHOWN_EVERY_S = 0.4  # below a tick, which comes twice a second
MOST_DISCARDS = 3  # sums of one round in a row that do not count; then a person decides
_PHASES = list(Phase)


@dataclass(frozen=True)
class Position:
    """Where an attempt stands: its round, its phase, for how long, and for how many sites."""

    round: int
    phase: str
    seconds: float
    waiting_for: int


class RoundDriver:
    """Runs a study's rounds to their end. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        terms: StudyTerms,
        state: CoordinatorState,
        blobs: Blobs,
        verify: Verify,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.terms = terms
        self._state = state
        self._blobs = blobs
        self._verify = verify
        self._clock = clock
        self._changed = threading.Condition()
        self._round: CoordinatorRound | None = None
        self._over: str | None = None
        self._told_over: set[SiteId] = set()
        self._failure: PrimiaError | None = None
        self._heard: dict[SiteId, float] = {}
        self._ready: set[SiteId] = set()
        self._shown: tuple[str, tuple[str, ...]] | None = None
        self._shown_at = 0.0
        self._opened_at = 0.0
        self._phase_since = clock()
        self._committed: RoundId | None = None  # the last one
        self._on_bench: tuple[Benched, ...] = ()  # of the open attempt
        self._anew: set[SiteId] = set()  # workers that were restarted in the open attempt
        self._late: dict[SiteId, tuple[RoundId, str, float]] = {}  # where, and since when
        self._discarded: str | None = None  # why a sum that the machine released did not count
        self._aborts = 0
        self._discards = 0
        self._not_before = 0.0
        self._signers_until = clock() + ATTENDING_S
        self._starts = int(state.noted("starts") or 0) + 1
        state.note("starts", str(self._starts))
        for row in state.attempts():
            if row.outcome == "open":
                self._take_up(row)
        resuming.sweep(state, blobs)

    def _take_up(self, row: AttemptRow) -> None:
        """Go on with an attempt that the last process left open, or say that it ended with it."""
        machine = resuming.resume(row, self._round_terms, self._blobs, self._clock())
        if machine is not None:
            log.info("round_resumed", round=row.round.number, attempt=row.round.attempt)
            self._round, self._ready = machine, {SiteId(s) for s in row.charged}
            self._shown = (machine.phase.value, machine.waiting_for)
            return
        why = "the coordinator was restarted"
        everyone = [
            Participation(s, s in row.charged, False, row.phase, why, RESTARTED)
            for s in self.terms.roster
        ]
        self._state.abort_attempt(row.round.attempt, why, everyone, code=RESTARTED)

    # --- called by the service, from any thread ----------------------------------------------

    def attend(
        self, site: SiteId, after: int, wait_s: float, stopping: Callable[[], bool]
    ) -> tuple[int, Instruction] | str | None:
        """The instruction for `site` that is not the one of serial `after`; waits up to `wait_s`.

        A text means that the study is over, None that there is nothing yet.
        """
        until = self._clock() + wait_s
        with self._changed:
            while True:
                found = self.poll(site, after)
                left = until - self._clock()
                if found is not None or left <= 0 or stopping():
                    return found
                self._changed.wait(min(left, 1.0))

    def poll(self, site: SiteId, after: int) -> tuple[int, Instruction] | str | None:
        """What `attend` has for `site` at this moment."""
        with self._changed:
            self._hear(site)
            if self._over is not None:
                self._told_over.add(site)
                return self._over
            found = self._instruction(site)
            # Not "above": the serials of a coordinator restored from a backup are lower.
            if found is not None and found[0] != after and self._failure is None:
                return found
            return None

    def answer(self, site: SiteId, answer: Answer) -> None:
        """Hand an answer to the machine. Raises PeerError when it is refused."""
        if isinstance(answer, RevealedShares):
            with self._changed:
                if self._committed == answer.round:
                    self._hear(site)  # others were faster, and theirs were enough
                    return
        self._handle(site, Answered(site, answer), answer.round)

    def update_arrived(
        self, site: SiteId, round_id: RoundId, packed: Packed, digest: Digest
    ) -> None:
        """All of a site's vectors, their SHA-256 checked. Raises PeerError when refused."""
        self._handle(site, UpdateArrived(site, packed, digest), round_id)

    def progress(self, site: SiteId) -> None:
        """Bytes of an upload are flowing."""
        with self._changed:
            self._hear(site)
            if self._round is not None:
                self._feed(self._round, Progress(site))

    def upload_limit(self, site: SiteId, round_id: RoundId, session: bytes) -> int:
        """Bytes that an upload of `site` has, if one is awaited now. Raises PeerError if not."""
        with self._changed:
            current = self._round
            awaited = (
                current is not None
                and current.terms.round == round_id
                and current.phase is Phase.MASKED_UPDATE
                and current.session == session
                and site in current.waiting_for
            )
            if current is None or not awaited:
                self._note_if_late(site, round_id)
                raise PeerError("no update of this site is awaited; it stays at the site")
            return current.terms.layout.wire_bytes

    def fail(self, why: StateError) -> None:
        """The disk failed in a call of a site: `run` ends with that, before it limps on."""
        with self._changed:
            self._failure = self._failure or why
            self._changed.notify_all()

    def holds_update(self, site: SiteId, round_id: RoundId, session: bytes) -> bool:
        """Whether the vectors of `site` are in the open round's sum already."""
        with self._changed:
            current = self._round
            return (
                current is not None
                and (current.terms.round, current.session) == (round_id, session)
                and site in current.uploaded
            )

    def everyone_knows(self) -> bool:
        """Whether every enrolled site has heard that the study is over.

        Those that are away, too: one that was killed a moment ago is on its way back.
        """
        with self._changed:
            return self._invited() <= self._told_over

    def position(self) -> Position | None:
        """Where the open attempt stands, for display; None between two."""
        with self._changed:
            machine = self._round
            if machine is None or machine.phase in (Phase.DONE, Phase.ABORTED):
                return None
            return Position(
                machine.terms.round.number,
                machine.phase.value,
                self._clock() - self._phase_since,
                len(machine.waiting_for),
            )

    @property
    def over(self) -> str | None:
        """Why the study has ended, or None."""
        return self._over

    def _handle(self, site: SiteId, event: Event, round_id: RoundId) -> None:
        with self._changed:
            self._hear(site)
            current = self._round
            try:
                if current is None or current.terms.round != round_id or current.phase in FINAL:
                    raise PeerError("this round is closed; wait for the next instruction")
                self._feed(current, event)
            except PeerError:
                self._note_if_late(site, round_id)
                raise

    def _note_if_late(self, site: SiteId, round_id: RoundId) -> None:
        """An answer that is refused because the round went on without this site: by how much."""
        found = self._late.get(site)
        if found is None or found[0] != round_id:
            return
        _, phase, since = self._late.pop(site)
        over = self._clock() - since
        log.info(
            "late_answer", site=site, round=round_id.number, phase=phase, seconds=round(over, 1)
        )
        self._state.troubles.note(
            LATE_ANSWER,
            site,
            f"its answer came {over:.1f} s after the round had gone on without it",
            round_number=round_id.number,
            attempt=round_id.attempt,
            phase=phase,
        )

    def began_anew(self, site: SiteId) -> None:
        """A worker starts to take part: in an open round that it was heard in, it was restarted."""
        with self._changed:
            machine = self._round
            if machine is None or machine.phase in FINAL or site not in machine.terms.invited:
                return
            if self._heard.get(site, -1e9) < self._opened_at:
                return
            round_id = machine.terms.round
            self._anew.add(site)
            self._state.troubles.note(
                WORKER_RESTARTED,
                site,
                "its worker began anew while the round was open",
                round_number=round_id.number,
                attempt=round_id.attempt,
                phase=machine.phase.value,
            )

    def _hear(self, site: SiteId) -> None:
        if site not in self._heard:
            log.info("site_attends", site=site)
            self._changed.notify_all()
        self._heard[site] = self._clock()

    def _instruction(self, site: SiteId) -> tuple[int, Instruction] | None:
        """Serials grow over attempts and phases; a site gets one instruction in each phase."""
        if self._round is None:
            return None
        instruction = self._round.instruction_for(site)
        if instruction is None:
            return None
        if isinstance(instruction, Closed) and self._discarded is not None:
            instruction = replace(instruction, outcome=Outcome.ABORTED, reason=self._discarded)
        phase = _PHASES.index(self._round.phase)
        serial = self._round.terms.round.attempt * 16 + phase + 1
        # A resumed phase asks again: what a site answered before the restart may be lost.
        return (self._starts << 40) + serial, instruction

    # --- the daemon's loop -------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Open attempts and let time pass until the study is over or `stop` is set.

        Raises StateError when the disk fails, also in a call of a site, and RoundFailed when the
        sums of a round were discarded again and again: the daemon ends, and resumes at the same
        round once the cause is mended.
        """
        while not stop.is_set() and self._over is None:
            with self._changed:
                self._changed.wait(self.tick())

    def tick(self) -> float:
        """Do what is due now; returns for how many seconds nothing will be, unless a site calls.

        Raises as `run` does.
        """
        with self._changed:
            if self._failure is not None:
                raise self._failure
            if self._round is None or self._round.phase in (Phase.DONE, Phase.ABORTED):
                self._open_next()
            else:
                self._lose_struck(self._round)
                self._feed(self._round, Tick())
            return self._pause()

    def _lose_struck(self, machine: CoordinatorRound) -> None:
        """Do not wait for sites that were struck meanwhile (by a command, in another process)."""
        for site in set(machine.waiting_for) - self._invited():
            self._feed(machine, SiteLost(site))

    def _pause(self) -> float:
        """How long nothing can be due; short, so that `stop` is heard."""
        deadline = None if self._round is None else self._round.next_deadline
        return 0.5 if deadline is None else max(0.01, min(0.5, deadline - self._clock()))

    def _open_next(self) -> None:
        model = self._state.newest_model()
        benched = self._benched()
        agenda = Agenda(
            rounds=self.terms.rounds,
            shared_noise=self.terms.contribution.shared is not None,
            attempts=self._state.attempts(),
            model=model,
            invited=frozenset(self._invited()),
            present=frozenset(self._present()),
            benched=frozenset(b.site for b in benched),
        )
        if agenda.over:
            self._finish("all rounds are committed")
            return
        if agenda.struck_signers:
            names = ", ".join(sorted(agenda.struck_signers))
            self._finish(
                f"all rounds are committed; the last model stays without scores, for {names} "
                "signed for their sum and was struck"
            )
            return
        now = self._clock()
        if len(agenda.present & agenda.invitees) < self.terms.quorum or now < self._not_before:
            return
        if agenda.a_signer_is_away and now < self._signers_until:
            return  # it may be on its way back; without it, all train and are charged anew
        number, kind = agenda.number, agenda.kind
        round_id = self._state.open_attempt(self.terms.plan, number, kind, model.digest)
        log.info("round_opened", round=number, attempt=round_id.attempt, kind=kind.value)
        self._opened_at = now
        self._on_bench = tuple(b for b in benched if b.site not in agenda.invitees)
        self._ready.clear()
        self._anew.clear()
        self._shown = self._discarded = None
        invited, promised = tuple(sorted(agenda.invitees)), agenda.promised
        machine = CoordinatorRound(self._round_terms(round_id, invited, promised), now=now)
        self._round = machine
        self._carry_out(machine, machine.start())

    def _benched(self) -> tuple[Benched, ...]:
        return bench(
            self._state.attempts(),
            self._invited(),
            self._present(),
            quorum=self.terms.quorum,
            most_missed=self.terms.max_rounds_missed,
            readmitted=self._state.readmitted(),
        )

    def _round_terms(
        self,
        round_id: RoundId,
        invited: tuple[SiteId, ...],
        promised: frozenset[frozenset[SiteId]] = frozenset(),
    ) -> RoundTerms:
        return RoundTerms(
            round=round_id,
            invited=invited,
            quorum=self.terms.quorum,
            deadline_s=self.terms.deadline_s,
            grace_s=self.terms.grace_s,
            stage_timeout_s=self.terms.stage_timeout_s,
            layout=self.terms.contribution.layout,
            cipher=self.terms.cipher,
            groups=self.terms.groups,
            threads=self.terms.threads,
            promised=promised,
            verify=self._verify,
        )

    def _invited(self) -> set[SiteId]:
        """Enrolled sites of the roster; those away now may still come before the round ends."""
        return {s.site for s in self._state.enrolled() if s.site in self.terms.roster}

    def _present(self) -> set[SiteId]:
        now = self._clock()
        return {s for s in self._invited() if now - self._heard.get(s, -1e9) < ATTENDING_S}

    def _finish(self, why: str) -> None:
        log.info("study_over", reason=why)
        self._state.audit.append("study_finished", reason=why)
        self._state.note("over", why)
        self._state.note("state", "finished")
        self._over = why
        self._changed.notify_all()

    # --- the machine -------------------------------------------------------------------------

    def _feed(self, machine: CoordinatorRound, event: Event) -> None:
        """One event in, its commands out. PeerError passes through, with nothing changed."""
        try:
            self._carry_out(machine, machine.handle(event, self._clock()))
        except StateError as err:
            self._failure = err
            raise

    def _carry_out(self, machine: CoordinatorRound, commands: list[Command]) -> None:
        if machine.phase is Phase.TRAINING:
            self._ready = set(machine.answered)
        elif machine.phase is Phase.KEYS and commands:
            self._ready = set(machine.answered) | set(machine.waiting_for)
        if commands:
            round_id, now = machine.terms.round, self._clock()
            for d in machine.dropped:
                known = self._late.get(d.site)
                if d.code is Loss.LATE and (known is None or known[0] != round_id):
                    self._late[d.site] = round_id, d.phase.value, now
        for command in commands:
            match command:
                case Commit():
                    self._commit(machine, command)
                case Abort(reason, _):
                    self._abort(machine, reason)
        if machine.phase not in (Phase.DONE, Phase.ABORTED):
            shown = (machine.phase.value, machine.waiting_for)
            if self._is_due(shown):
                carried = None
                if self._shown is None or self._shown[0] != shown[0]:
                    self._phase_since = self._clock()
                    carried = resuming.carry(machine, self._blobs)
                self._shown, self._shown_at = shown, self._clock()
                # Before any site can hear of the phase, for this holds the lock.
                self._state.set_phase(
                    machine.terms.round.attempt,
                    *shown,
                    ready=self._ready,
                    survivors=machine.contributors,
                    carried=carried,
                )
                log.info(
                    "phase",
                    round=machine.terms.round.number,
                    phase=shown[0],
                    waiting_for=list(shown[1]),
                )
        if commands:
            self._changed.notify_all()

    def _is_due(self, shown: tuple[str, tuple[str, ...]]) -> bool:
        """A phase is written when it begins; who is waited for, by a later tick.

        A transaction for each answer would be most of a round's writing.
        """
        if self._shown is None or self._shown[0] != shown[0]:
            return True
        return shown != self._shown and self._clock() >= self._shown_at + SHOWN_EVERY_S

    def _participation(
        self, machine: CoordinatorRound, contributors: tuple[SiteId, ...]
    ) -> list[Participation]:
        dropped = {d.site: d for d in machine.dropped}
        return [
            Participation(
                site=site,
                charged=site in self._ready,
                contributed=site in contributors,
                phase=dropped[site].phase.value if site in dropped else "",
                **self._why(dropped.get(site)),
            )
            for site in machine.terms.invited
        ] + [
            Participation(b.site, False, False, "bench", b.reason, BENCHED) for b in self._on_bench
        ]

    def _why(self, dropped: Dropped | None) -> dict[str, str]:
        """A site that is late was there; one that is away was not heard of since the opening."""
        if dropped is None:
            return {"reason": "", "code": ""}
        heard = self._heard.get(dropped.site, -1e9)
        if dropped.code is Loss.LATE and heard < self._opened_at:
            return {"reason": "away: nothing was heard of its worker in this round", "code": AWAY}
        if dropped.code is Loss.DECLINED and dropped.site in self._anew:
            return {"reason": dropped.reason, "code": WORKER_RESTARTED}  # nobody's decision
        return {"reason": dropped.reason, "code": dropped.code.value}

    def _abort(self, machine: CoordinatorRound, reason: str) -> None:
        round_id = machine.terms.round
        self._state.abort_attempt(
            round_id.attempt,
            reason,
            self._participation(machine, ()),
            code=NOT_ENOUGH if self._discarded is None else DISCARDED,
        )
        pause = min(LONGEST_PAUSE_S, 2.0**self._aborts)
        self._aborts += 1
        self._not_before = self._clock() + pause
        self._signers_until = self._clock() + max(ATTENDING_S, self.terms.grace_s)
        resuming.sweep(self._state, self._blobs)
        log.warning("round_aborted", round=round_id.number, attempt=round_id.attempt, reason=reason)

    def _commit(self, machine: CoordinatorRound, commit: Commit) -> None:
        """Make the sum count: blobs first, then one row that says so."""
        round_id = machine.terms.round
        try:
            counted = count(self.terms, self._state, self._blobs, round_id, commit)
        except (RoundFailed, PeerError) as err:
            self._discard(machine, err)
            return
        self._state.commit_attempt(
            round_id.attempt,
            self._participation(machine, commit.contributors),
            verdict=counted.verdict,
            model=counted.model,
            update_norm=counted.update_norm,
        )
        resuming.sweep(self._state, self._blobs)
        self._aborts = self._discards = 0
        self._committed = round_id
        _log_commit(round_id, commit.contributors, counted.verdict)

    def _discard(self, machine: CoordinatorRound, why: PrimiaError) -> None:
        """A sum that honest sites cannot have made: nothing of it is applied."""
        self._discarded = f"the sum was discarded: {why}"
        self._discards += 1
        self._abort(machine, self._discarded)
        if self._discards >= MOST_DISCARDS:
            # The sites offer what they stored, so a further attempt would bring the same sum.
            self._failure = RoundFailed(
                f"round {machine.terms.round.number}: {self._discards} sums in a row were "
                f"discarded ({why}); nothing was applied. Ask each hospital to check its worker, "
                "or strike the one you suspect (primia-coordinator roster --strike SITE), then "
                "start again"
            )


def _log_commit(
    round_id: RoundId, contributors: tuple[SiteId, ...], verdict: Verdict | None
) -> None:
    scores = {} if verdict is None else verdict.scores
    log.info(
        "round_committed",
        round=round_id.number,
        attempt=round_id.attempt,
        sites=list(contributors),
        **{k: round(scores[k], 4) for k in ("auc", "loss") if k in scores},
    )
    if verdict is not None and verdict.returned_to is not None:
        log.warning(
            "model_rejected",
            model=verdict.number,
            votes=verdict.votes,
            sites=len(contributors),
            returned_to=verdict.returned_to,
        )
