"""From the coordinator's rows to the study record, and from there to the files of an export."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.state import AttemptRow, CoordinatorState
from primia.config import StudyPlan, plan_from_canonical
from primia.errors import StateError
from primia.learning.metrics import Metrics
from primia.learning.terms import is_distributed, study_mechanism
from primia.privacy.accounting import epsilon
from primia.protocol.messages import RoundKind
from primia.report.record import (
    Attempt,
    ModelRecord,
    Scores,
    SiteRecord,
    StudyRecord,
    scores_from_dict,
)
from primia.study import metric_layout
from primia.types import SiteId

_PACKAGES = ("primia", "torch", "numpy", "grpcio", "cryptography", "dp-accounting")


def scores(
    plan: StudyPlan, counts: npt.NDArray[np.int64], sites: Sequence[SiteId]
) -> dict[str, Any]:
    """Scores of one model from summed counts, as stored. Raises PeerError when they contradict."""
    found = Metrics.from_counts(metric_layout(plan), counts)
    curves = [found.roc(c) for c in range(len(plan.model.classes))]
    return {
        "films": found.films,
        "sites": list(sites),
        "loss": _known(found.loss),
        "auc": _known(found.auc),
        "auc_per_class": [_known(a) for a in found.auc_per_class],
        "accuracy": _known(found.accuracy),
        "balanced_accuracy": _known(found.balanced_accuracy),
        "confusion": found.confusion.tolist(),
        "roc": [np.stack([x, y], axis=1).round(6).tolist() for x, y in curves],
    }


def _known(value: float) -> float:
    """JSON has no NaN: a figure that nothing was counted for is 0, and so never the best."""
    return 0.0 if math.isnan(value) else float(value)


def epsilon_by_round(plan: StudyPlan) -> dict[int, float]:
    """ε of a site that took part in 1, 2, … rounds; empty without differential privacy."""
    whole = study_mechanism(plan)
    if plan.privacy == "none" or whole is None:
        return {}
    marks = sorted({max(1, round(plan.rounds * i / 20)) for i in range(1, 21)})
    return {n: _epsilon(plan, n) for n in marks}


def _epsilon(plan: StudyPlan, rounds: int) -> float:
    whole = study_mechanism(plan)
    if plan.privacy == "none" or whole is None or rounds == 0:
        return 0.0
    run = replace(whole, steps=rounds * plan.training.local_steps)
    return epsilon([run], plan.privacy.delta)


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
        planned_epsilon=None if plan.privacy == "none" else _epsilon(plan, plan.rounds),
        delta=None if plan.privacy == "none" else plan.privacy.delta,
        parameters=pinned.parameters,
        attempts=tuple(_attempt(row) for row in attempts),
        models=models,
        best=_best(models),
        sites=tuple(_sites(state, plan, attempts)),
        versions={"python": platform.python_version(), **{p: version(p) for p in _PACKAGES}},
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
    )


def _best(models: Sequence[ModelRecord]) -> int | None:
    """The highest AUC of those accepted; of equal ones the earlier.

    Model 0 was never trained and is not a result, also where a round returned to it.
    """
    untrained = {m.digest for m in models if m.number == 0}
    scored: list[tuple[Scores, int]] = [
        (m.scores, m.number)
        for m in models
        if m.scores is not None and m.accepted and m.digest not in untrained
    ]
    return max(scored, key=lambda s: (s[0].auc, -s[1]))[1] if scored else None


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
                epsilon=None if plan.privacy == "none" else _epsilon(plan, len(charged)),
            )
        )
    return found


def write_report(record: StudyRecord, plan: StudyPlan, folder: Path) -> None:
    """`report.html` and `result.json` into `folder`."""
    from primia.report.html import render
    from primia.report.record import to_json

    page = render(record, epsilon_by_round=epsilon_by_round(plan))
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "result.json").write_text(to_json(record) + "\n", encoding="utf-8")
