"""A whole study in memory: rounds through both machines, the server's step, scores, the record."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from primia.config.plan import StudyPlan, plan_digest
from primia.errors import PeerError, RoundFailed
from primia.federation.contribution import Aggregate, Contribution
from primia.federation.optimiser import ServerState, pack_weights, step
from primia.federation.robust import decode_groups, has_majority
from primia.learning.terms import is_distributed
from primia.outcome import best_model, epsilon_after, scores, versions
from primia.protocol.events import Commit, RoundTerms
from primia.protocol.messages import RoundId, RoundKind
from primia.protocol.site import SiteRound
from primia.report.record import (
    Absence,
    Attempt,
    ModelRecord,
    Scores,
    SiteRecord,
    StudyRecord,
    scores_from_dict,
)
from primia.simulate.attempt import Keys, Play, Played, draw_dropouts
from primia.simulate.crew import Crew, Done, Task, Weights, entropy_of
from primia.study import optimiser
from primia.types import Digest, Ring, SiteId, sha256

MOST_ATTEMPTS = 50  # at one round; with so many drop-outs it would not end
SIMULATED = "simulated in one process: no hospital took part, and nothing was sent"
INSECURE = "noise and masks were drawn from a seed: INSECURE, the models are not private at all"


@dataclass(frozen=True)
class Wishes:
    """drop: a site's chance to fall silent in an attempt. seed: of the drop-outs.

    deterministic: draw noise and masks from `seed`, too; for tests of the software only.
    """

    drop: float = 0.0
    seed: int = 0
    deterministic: bool = False
    threads: int = 1


@dataclass
class _Books:
    """What a real study keeps on disks: at the coordinator, and at each site."""

    state: ServerState
    models: list[ModelRecord]
    accepted: tuple[ServerState, int]  # the last accepted model, and the round that made it
    attempts: list[Attempt] = field(default_factory=list)
    best_auc: dict[SiteId, float] = field(default_factory=dict)
    charged: dict[SiteId, int] = field(default_factory=dict)


class Simulation:
    """Runs the plan's rounds and its closing evaluation.

    plan: settled. start: model 0. crew: does the sites' local work.
    """

    def __init__(
        self,
        plan: StudyPlan,
        contribution: Contribution,
        start: Weights,
        crew: Crew,
        wishes: Wishes,
        on_sum: Callable[[RoundKind, Aggregate], None] = lambda _kind, _sums: None,
    ) -> None:
        """on_sum: hears what each sum says that is not discarded, before it is applied."""
        self._on_sum = on_sum
        self.plan, self._contribution, self._crew, self._wishes = plan, contribution, crew, wishes
        self._digest = plan_digest(plan)
        self._keys = Keys(plan.site_ids)
        self._chance = random.Random(wishes.seed)  # noqa: S311  (drop-outs, nothing secret)
        self._optimiser = optimiser(plan)
        state = ServerState.start(start, self._optimiser)
        first = ModelRecord(0, sha256(pack_weights(start)), None, accepted=True)
        self._books = _Books(state, [first], (state, 0))
        self._retrain = False
        self._best: Weights | None = None
        self._began = time.time()

    @property
    def best_weights(self) -> Weights | None:
        """Of the model that the record calls the best; None before one was scored."""
        return self._best

    def run(self, on_attempt: Callable[[Attempt], None] = lambda _attempt: None) -> StudyRecord:
        """Play every round; `on_attempt` hears of each attempt when it has ended.

        Raises RoundFailed when a round does not commit in `MOST_ATTEMPTS`.
        """
        for number in range(1, self.plan.rounds + 2):
            self._round(number, on_attempt)
        return self._record()

    def _round(self, number: int, on_attempt: Callable[[Attempt], None]) -> None:
        """Attempts until one commits; sites that signed for a sum are brought together again."""
        made: dict[SiteId, Done] = {}
        signers: tuple[SiteId, ...] = ()
        shared = is_distributed(self.plan)
        kind = RoundKind.RETRAIN if self._retrain else RoundKind.TRAIN
        if number > self.plan.rounds:
            kind = RoundKind.EVALUATE
            if self._retrain:  # the study returned to a model that is counted already
                return
        for _ in range(MOST_ATTEMPTS):
            attempt = RoundId(
                self._digest,
                number,
                len(self._books.attempts) + 1,
                kind,
                Digest(self._books.models[-1].digest),
            )
            opened = time.time()
            played = self._play(attempt, signers or self.plan.site_ids, made, signers)
            record = self._close(attempt, played, opened)
            self._books.attempts.append(record)
            on_attempt(record)
            if record.outcome == "committed":
                return
            if shared and kind is not RoundKind.EVALUATE:
                # A share of noise joins one sum; a model that a sum may have counted, no other.
                if played.keys_made:
                    made.clear()
                if played.signers:
                    kind = RoundKind.RETRAIN
            else:
                signers = played.signers or signers
        raise RoundFailed(
            f"round {number} did not commit in {MOST_ATTEMPTS} attempts, the last one because "
            f"{self._books.attempts[-1].reason}; lower --drop or the plan's quorum"
        )

    def _play(
        self,
        attempt: RoundId,
        invited: tuple[SiteId, ...],
        made: dict[SiteId, Done],
        signers: tuple[SiteId, ...],
    ) -> Played:
        silent = draw_dropouts(invited, self._wishes.drop, self._chance)
        seed = self._wishes.seed if self._wishes.deterministic else None
        best = self._books.best_auc
        tasks = [
            Task(s, attempt.number, attempt.attempt, attempt.kind, best.get(s), seed)
            for s in invited
            if s not in made
        ]
        # Also those that fall silent have trained, except where that is what they did not do.
        tasks = [t for t in tasks if silent.get(t.site) != "training"]
        made |= self._crew.work(tasks, self._books.state.weights)
        if attempt.kind is not RoundKind.EVALUATE:
            for task in tasks:
                self._books.charged[task.site] = self._books.charged.get(task.site, 0) + 1
        machines = {s: self._site(s, attempt, signers, seed) for s in invited}

        def fresh(site: SiteId) -> Ring:
            return made[site].vector.copy()

        terms = self._terms(attempt, invited)
        played = Play(terms, machines, fresh, silent).run()
        for task in tasks:
            auc = made[task.site].auc
            if auc is not None:
                best[task.site] = max(auc, best.get(task.site, auc))
        return played

    def _site(
        self, site: SiteId, attempt: RoundId, signers: tuple[SiteId, ...], seed: int | None
    ) -> SiteRound:
        return SiteRound(
            me=site,
            round=attempt,
            layout=self._contribution.layout,
            floor=3,
            plan_floor=self.plan.schedule.quorum,
            roster=self.plan.site_ids,
            sign=self._keys.sign_as(site),
            verify=self._keys.verify,
            entropy=entropy_of(seed, f"{site}/{attempt.attempt}/masks"),
            last_attempt=attempt.attempt - 1,
            signed_before=signers or None,
            cipher=self.plan.aggregation.mask_cipher,
            groups=self.plan.aggregation.groups,
            threads=self._wishes.threads,
        )

    def _terms(self, attempt: RoundId, invited: tuple[SiteId, ...]) -> RoundTerms:
        schedule = self.plan.schedule
        return RoundTerms(
            round=attempt,
            invited=invited,
            quorum=schedule.quorum,
            deadline_s=schedule.deadline_s,
            grace_s=schedule.grace_s,
            stage_timeout_s=schedule.stage_timeout_s,
            layout=self._contribution.layout,
            cipher=self.plan.aggregation.mask_cipher,
            groups=self.plan.aggregation.groups,
            threads=self._wishes.threads,
            verify=self._keys.verify,
        )

    # --- what a sum does to the study ---

    def _close(self, attempt: RoundId, played: Played, opened: float) -> Attempt:
        votes, returned_to, norm, reason = None, None, None, played.reason
        commit = played.commit
        if commit is not None:
            try:
                sums = decode_groups(self._contribution, commit.totals, commit.groups)
                self._on_sum(attempt.kind, sums)
                votes, returned_to, norm = self._apply(attempt, sums, commit)
            except (RoundFailed, PeerError) as err:
                commit, reason = None, f"the sum was discarded: {err}"
        return Attempt(
            attempt=attempt.attempt,
            number=attempt.number,
            kind=attempt.kind.value,
            outcome="aborted" if commit is None else "committed",
            reason=reason,
            contributors=() if commit is None else commit.contributors,
            absent=tuple(
                Absence(d.site, d.phase.value, d.reason, d.code.value) for d in played.dropped
            ),
            opened_at=opened,
            closed_at=time.time(),
            update_norm=norm,
            votes=votes,
            returned_to=returned_to,
        )

    def _apply(
        self, attempt: RoundId, sums: Aggregate, commit: Commit
    ) -> tuple[int | None, int | None, float | None]:
        """(votes, number of the model returned to, norm of the update if it was applied)."""
        books, votes, returned_to = self._books, None, None
        voting = self.plan.evaluation.vote_tolerance is not None
        if attempt.kind is not RoundKind.RETRAIN:
            counted = scores(self.plan, sums.metrics, commit.contributors)
            accepted = True
            if voting:
                votes = sums.votes
                accepted = len(books.models) == 1 or has_majority(votes, len(commit.contributors))
            # Sites that do nothing have no films, and so no scores.
            self._score(scores_from_dict(counted) if counted["films"] else None, accepted=accepted)
            if accepted:
                books.accepted = (books.state, books.models[-1].number)
            else:
                returned_to = books.accepted[1]
        self._retrain = returned_to is not None
        if self._retrain:
            books.state = books.accepted[0]
            kept = books.models[books.accepted[1]]
            books.models.append(
                ModelRecord(attempt.number, kept.digest, kept.scores, kept.accepted)
            )
            return votes, returned_to, None
        if attempt.kind is RoundKind.EVALUATE:
            return votes, None, None
        books.state = step(books.state, sums.mean_update, self._optimiser)
        digest = sha256(pack_weights(books.state.weights))
        books.models.append(ModelRecord(attempt.number, digest, None))
        return votes, None, float(np.linalg.norm(sums.mean_update))

    def _score(self, found: Scores | None, *, accepted: bool) -> None:
        last = self._books.models[-1]
        self._books.models[-1] = ModelRecord(last.number, last.digest, found, accepted)
        if best_model(self._books.models) == last.number:
            self._best = self._books.state.weights

    def _record(self) -> StudyRecord:
        plan, books = self.plan, self._books
        deterministic = self._wishes.deterministic
        private = plan.privacy != "none" and not deterministic
        models = tuple(books.models)
        return StudyRecord(
            study=plan.study,
            state="finished",
            plan=plan.model_dump(mode="json"),
            plan_digest=self._digest,
            planned_epsilon=epsilon_after(plan, plan.rounds) if private else None,
            delta=plan.privacy.delta if plan.privacy != "none" else None,
            parameters=self._contribution.parameters,
            attempts=tuple(books.attempts),
            models=models,
            best=best_model(models),
            sites=tuple(self._site_record(s, private=private) for s in plan.site_ids),
            versions=versions(),
            written_at=time.time(),
            notes=(SIMULATED, INSECURE) if deterministic else (SIMULATED,),
        )

    def _site_record(self, site: SiteId, *, private: bool) -> SiteRecord:
        charged = self._books.charged.get(site, 0)
        given = sum(site in a.contributors and a.kind != "evaluate" for a in self._books.attempts)
        return SiteRecord(
            site=site,
            certificate="0" * 64,
            enrolled_at=self._began,
            struck_at=None,
            rounds_contributed=given,
            rounds_charged=charged,
            epsilon=epsilon_after(self.plan, charged) if private else None,
        )


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))
