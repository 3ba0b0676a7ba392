"""What a study's counts and rounds come to: scores, ε, the best model, the files of its report."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from primia.config.plan import StudyPlan
from primia.learning.metrics import Metrics
from primia.learning.terms import study_mechanism
from primia.privacy.accounting import epsilon
from primia.report.record import ModelRecord, Scores, StudyRecord
from primia.study import metric_layout
from primia.types import SiteId

_PACKAGES = ("primia", "torch", "numpy", "grpcio", "cryptography", "dp-accounting")


def versions() -> dict[str, str]:
    """Of Python and what figures depend on, for the record."""
    return {"python": platform.python_version(), **{p: version(p) for p in _PACKAGES}}


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
    return {n: epsilon_after(plan, n) for n in marks}


def epsilon_after(plan: StudyPlan, rounds: int) -> float:
    """ε of a site that was charged for so many rounds; 0 without differential privacy."""
    whole = study_mechanism(plan)
    if plan.privacy == "none" or whole is None or rounds == 0:
        return 0.0
    run = replace(whole, steps=rounds * plan.training.local_steps)
    return epsilon([run], plan.privacy.delta)


def best_model(models: Sequence[ModelRecord]) -> int | None:
    """Number of the model with the highest AUC of those accepted; of equal ones the earlier.

    Model 0 was never trained and is not a result, also where a round returned to it.
    """
    untrained = {m.digest for m in models if m.number == 0}
    scored: list[tuple[Scores, int]] = [
        (m.scores, m.number)
        for m in models
        if m.scores is not None and m.accepted and m.digest not in untrained
    ]
    return max(scored, key=lambda s: (s[0].auc, -s[1]))[1] if scored else None


def write_report(record: StudyRecord, plan: StudyPlan, folder: Path) -> None:
    """`report.html` and `result.json` into `folder`."""
    from primia.report.html import render
    from primia.report.record import to_json

    page = render(record, epsilon_by_round=epsilon_by_round(plan))
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "result.json").write_text(to_json(record) + "\n", encoding="utf-8")
