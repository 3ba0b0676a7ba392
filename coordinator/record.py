"""From the coordinator's rows to the study record."""

from __future__ import annotations

import time
from collections.abc import Sequence

from coordinator.rows import AttemptRow
from coordinator.state import CoordinatorState
from primia.config import StudyPlan, plan_from_canonical
from primia.errors import StateError
from primia.learning.terms import is_distributed
from primia.outcome import best_model, epsilon_after, versions
from primia.protocol.messages import RoundKind
from primia.report.record import Attempt, ModelRecord, SiteRecord, StudyRecord, scores_from_dict


def study_record(state: CoordinatorState) -> StudyRecord:
    """The study as it stands now. Raises StateError before the first start."""
    pinned = state.study()
    if pinned is None:
        raise StateError("no study was started here yet; run: primia-coordinator start --plan FILE")
    plan = plan_from_canonical(pinned.plan)
    attempts = state.attempts()
    models = tuple(
        ModelRecord(
            m.number,
            m.digest,
            None if m.scores is None else scores_from_dict(m.scores),
            m.accepted,
        )
        for m in state.models()
    )
    return StudyRecord(
        study=plan.study,
        state=state.noted("state") or "running",
        plan=plan.model_dump(mode="json"),
        plan_digest=pinned.digest,
        planned_epsilon=None if plan.privacy == "none" else epsilon_after(plan, plan.rounds),
        delta=None if plan.privacy == "none" else plan.privacy.delta,
        parameters=pinned.parameters,
        attempts=tuple(_attempt(row) for row in attempts),
        models=models,
        best=best_model(models),
        sites=tuple(_sites(state, plan, attempts)),
        versions=versions(),
        written_at=time.time(),
    )


def _attempt(row: AttemptRow) -> Attempt:
    return Attempt(
        attempt=row.round.attempt,
        number=row.round.number,
        kind=row.round.kind.value,
        outcome=row.outcome,
        reason=row.reason,
        contributors=row.contributors,
        absent=row.absent,
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        update_norm=row.update_norm,
        votes=row.votes,
        returned_to=row.returned_to,
        code=row.code,
    )


def _sites(
    state: CoordinatorState, plan: StudyPlan, attempts: Sequence[AttemptRow]
) -> list[SiteRecord]:
    """ε as the coordinator sees it, an upper bound. With a site's own noise a repeated attempt
    offers what was charged already; with shared noise every attempt counts, though one that ended
    before its keys were made is not charged again."""
    trained = [a for a in attempts if a.round.kind is not RoundKind.EVALUATE]
    found = []
    for site in state.sites():
        given = {a.round.number for a in trained if site.site in a.contributors}
        charged = {
            a.round.attempt if is_distributed(plan) else a.round.number
            for a in trained
            if site.site in a.charged
        }
        found.append(
            SiteRecord(
                site=site.site,
                certificate=site.fingerprint,
                enrolled_at=site.enrolled_at,
                struck_at=site.struck_at,
                rounds_contributed=len(given),
                rounds_charged=len(charged),
                epsilon=None if plan.privacy == "none" else epsilon_after(plan, len(charged)),
            )
        )
    return found
