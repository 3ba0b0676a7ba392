"""One site's work for one round: train, store, charge. What this returns may leave under a mask.

The order is the promise: the encoded update is durable, then the ledger row is, then (elsewhere)
the first byte leaves. A crash in between costs budget at most, never privacy. How an update is made
is `worker.learning`'s affair; no torch here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import numpy as np
import structlog

from primia.config.plan import StudyPlan, plan_digest
from primia.config.site import Caps
from primia.errors import PolicyRefused, StateError
from primia.federation.contribution import Contribution
from primia.learning.terms import OnStep, is_distributed, round_mechanism, study_mechanism
from primia.privacy import HEAD_NOTE, Head, Ledger, Members
from primia.privacy.accounting import epsilon
from primia.protocol.messages import RoundId, RoundKind
from primia.secagg.topology import threshold
from primia.storage.blobs import Blobs
from primia.types import Digest, Ring, SiteId
from worker.guard import ModelGuard
from worker.state import StoredUpdate, WorkerState

log = structlog.get_logger()


def check_plan(plan: StudyPlan, caps: Caps, me: SiteId) -> float | None:
    """Hold the plan against the site's own caps; returns the ε this site computes for all of it.

    Raises PolicyRefused naming the cap and the plan's value. None means `privacy: none`, allowed
    by this site explicitly.
    """
    if me not in plan.site_ids:
        raise PolicyRefused(f"the plan's roster does not name this site ({me}); tell the lead")
    largest = largest_guaranteed_sum(plan)
    if largest < caps.min_cohort:
        raise PolicyRefused(
            f"with all {len(plan.sites)} sites of the plan there, a sum of {largest} may still be "
            f"opened, and this site asks for {caps.min_cohort} (caps.min_cohort); ask for a higher "
            "quorum, fewer groups or more sites"
        )
    if caps.max_rounds is not None and plan.rounds > caps.max_rounds:
        raise PolicyRefused(
            f"the plan has {plan.rounds} rounds, above this site's cap {caps.max_rounds} "
            "(caps.max_rounds); ask for fewer rounds"
        )
    whole = study_mechanism(plan)
    if plan.privacy == "none" or whole is None:
        if not caps.allow_no_privacy:
            raise PolicyRefused(
                "the plan says `privacy: none` and this site does not allow that; "
                "ask for a plan with privacy, or set caps.allow_no_privacy: true"
            )
        return None
    if is_distributed(plan) and not caps.allow_shared_noise:
        raise PolicyRefused(
            "the plan says `noise: distributed`: what it promises holds while at most "
            f"{plan.colluding_sites} sites pool what they know with the coordinator; ask for a "
            "plan with noise: site, or set caps.allow_shared_noise: true"
        )
    if plan.privacy.delta > caps.max_delta:
        raise PolicyRefused(
            f"the plan's delta {plan.privacy.delta:g} is above this site's cap "
            f"{caps.max_delta:g} (caps.max_delta)"
        )
    spent = epsilon([whole], plan.privacy.delta)
    if spent > caps.max_epsilon:
        raise PolicyRefused(
            f"the plan costs a patient ε = {spent:.3f} at delta {plan.privacy.delta:g}, above "
            f"this site's cap {caps.max_epsilon:g} (caps.max_epsilon); ask for fewer rounds or "
            "more noise"
        )
    return spent


def largest_guaranteed_sum(plan: StudyPlan) -> int:
    """What the smallest sum of a round is that all sites of the roster take part in.

    No round guarantees more. In each a site checks again, for those that are there (`SiteRound`).
    """
    groups = plan.aggregation.groups
    if groups > 1:
        return threshold(len(plan.sites) // groups)
    return max(threshold(len(plan.sites)), plan.schedule.quorum)


def check_round(round_id: RoundId, plan: StudyPlan) -> None:
    """Is this a round of the pinned plan at all? Raises PolicyRefused.

    The plan has rounds 1 to R and one closing evaluation; nothing else is ever answered.
    """
    last = plan.rounds + (round_id.kind is RoundKind.EVALUATE)
    first = plan.rounds + 1 if round_id.kind is RoundKind.EVALUATE else 1
    if round_id.plan != plan_digest(plan) or not first <= round_id.number <= last:
        raise PolicyRefused(
            f"round {round_id.number} ({round_id.kind.value}) is not one of the pinned plan"
        )


def check_books(
    ledger: Ledger, state: WorkerState, plan: Digest | None = None, site: SiteId | None = None
) -> None:
    """Ledger, database and audit log must be of one age, or nothing starts: each guards another.

    An older ledger would forget what was charged, an older database what was promised.
    plan, site: whose rows of the ledger this database must know; None: every row's.
    Raises StateError.
    """
    ledger.verify(at_least=Head.of(state.noted(HEAD_NOTE) or "0:"))
    ours = [
        row
        for row in ledger.rows()
        if plan in (None, row.plan) and (site is None or row.site in (None, site))
    ]
    if not all(state.holds_update(row.update) for row in ours):
        raise StateError(
            "worker.db is older than the privacy ledger beside it; restore both from one backup"
        )
    state.check_audit()


class Learning(Protocol):
    """What makes a site's contribution to a round."""

    def contribute(self, round_id: RoundId, model: bytes, on_step: OnStep) -> Ring:
        """The site's words for a round, noised and encoded; `on_step` after each local step.

        model: the global model's bytes. Raises DataError, PeerError.
        """


@dataclass(frozen=True)
class LocalWork:
    """All that a site's rounds need; built once per run of the daemon."""

    plan: StudyPlan
    contribution: Contribution
    caps: Caps
    learning: Learning
    state: WorkerState
    ledger: Ledger
    blobs: Blobs
    guard: ModelGuard
    members: Members | None = None  # whom it trains on; None: the ledger charges everybody
    cohort: Digest | None = None  # the approved films, by the digest of their manifest
    site: SiteId | None = None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def prepare(
        self, round_id: RoundId, fetch: Callable[[Digest], bytes], on_step: OnStep
    ) -> tuple[Ring, StoredUpdate]:
        """This site's vector for a round, stored and charged; trains unless it has done so before.

        fetch: the global model's bytes by digest. on_step: called after each local step.
        Raises BudgetExhausted before training when the ledger cannot bear it, ModelRefused when
        the guard does not take the model, DataError, PolicyRefused.
        """
        update = self.reusable(round_id)
        if update is None:
            if round_id.kind is not RoundKind.EVALUATE:
                self._refuse_if_spent()
            model = fetch(round_id.model)
            self.guard.check(round_id, model)
            vector = self.learning.contribute(round_id, model, on_step)
            update = self.state.add_update(round_id, self.blobs.put(vector.tobytes()), self.cohort)
            self._forget_older(round_id)
        else:
            log.info("update_reused", round=round_id.number, attempt=round_id.attempt)
        if round_id.kind is not RoundKind.EVALUATE:
            self._charge(round_id, update)
        return self.vector(update), update

    def _forget_older(self, round_id: RoundId) -> None:
        """Rounds never go back. An update may be the same bytes as an older one: it stays."""
        in_use = self.state.updates_from(round_id.number) | self.guard.kept(round_id.plan)
        for digest in list(self.blobs):
            if digest not in in_use:
                self.blobs.remove(digest)

    def vector(self, update: StoredUpdate) -> Ring:
        """A stored update, as a copy of its own: the machine masks it in place."""
        return np.frombuffer(bytearray(self.blobs.get(update.digest)), dtype="<u4")

    def reusable(self, round_id: RoundId) -> StoredUpdate | None:
        """The stored update that an attempt at this round may offer, if there is one.

        One that was made of other films than those approved now is retired: it may not have been
        charged yet, and then these patients would pay for those.

        With noise of its own an update may join several attempts. With a share only, it joins one:
        two sums that differ in the other sites' updates would differ by their shares alone. So once
        keys were made, it is retired, and the next one is made and charged. Raises PolicyRefused
        when this site has signed for its sum, too: another one would count the model again.
        """
        update = self.state.update_for(round_id)
        if update is None or not (self._of_other_films(update) or self._spent(round_id, update)):
            return update
        if update.signed is not None and round_id.kind is RoundKind.EVALUATE:
            return update  # those who signed with us wait for this one, and it is made only once
        if update.signed is not None and round_id.kind is RoundKind.TRAIN:
            raise PolicyRefused(
                f"round {round_id.number}: this site has signed for a sum that counts this model; "
                "it trains from it again only in a round that counts nothing (retrain)"
            )
        self.state.retire_update(update)
        return None

    def check_resumable(self, update: StoredUpdate) -> None:
        """Raise PolicyRefused when a round must not go on after a restart with this update.

        One that this site has signed for goes on in any case: its sum may be known by now.
        """
        if update.signed is None and self._of_other_films(update):
            raise PolicyRefused("the films of this site changed in the middle of the round")

    def _of_other_films(self, update: StoredUpdate) -> bool:
        if update.cohort == self.cohort:
            return False
        log.warning("update_of_other_films", remedy="none needed; it is not offered any more")
        return True

    def _spent(self, round_id: RoundId, update: StoredUpdate) -> bool:
        """Whether it holds a share of noise and may have left in an earlier attempt."""
        if round_id.kind is RoundKind.EVALUATE or not is_distributed(self.plan):
            return False
        last = self.state.last_attempt()
        return last != update.keys_before and round_id.attempt > last

    def spent(self) -> float:
        """ε of the patient of this cohort who has shown most, at the site's own delta."""
        return self.ledger.spent(self.caps.max_delta, self.members)

    def _refuse_if_spent(self) -> None:
        """Ask before training what the ledger would say after it: hours are not spent in vain."""
        most = self.caps.max_rounds
        if most is not None and self._trained() >= most:
            raise PolicyRefused(
                "this site has trained as often in this study as it allows (caps.max_rounds), "
                "rounds that were tried again included"
            )
        mechanism = round_mechanism(self.plan)
        if mechanism is not None:
            self.ledger.afford(mechanism, self._cap(), self.caps.max_delta, self.members)

    def _trained(self) -> int:
        """How many updates of this site for this plan the ledger holds."""
        plan = plan_digest(self.plan)
        return sum(r.plan == plan and r.site in (None, self.site) for r in self.ledger.rows())

    def _charge(self, round_id: RoundId, update: StoredUpdate) -> None:
        row = self.ledger.charge(
            plan=round_id.plan,
            round_number=round_id.number,
            attempt=round_id.attempt,
            mechanism=round_mechanism(self.plan),
            update=update.digest,
            cap_epsilon=self._cap(),
            cap_delta=self.caps.max_delta,
            time=self.now().isoformat(timespec="seconds"),
            members=self.members,
            study=self.plan.study,
            site=self.site,
        )
        last = self.state.audit.last("charged")
        if last is None or last.fields["update"] != update.digest:  # a repeat is no new charge
            self.state.audit.append(
                "charged",
                round=round_id.number,
                attempt=round_id.attempt,
                ledger=row.number,
                update=update.digest,
            )
        # Kept outside the ledger: a ledger put back to an older copy is found at the next start.
        self.state.note(HEAD_NOTE, str(self.ledger.head()))
        spent = self.spent()
        log.info(
            "charged",
            round=round_id.number,
            ledger_row=row.number,
            epsilon_spent=None if math.isinf(spent) else round(spent, 4),
        )

    def _cap(self) -> float:
        return math.inf if self.plan.privacy == "none" else self.caps.max_epsilon
