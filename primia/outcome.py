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
from primia.errors import DataError
from primia.findings import Finding
from primia.learning.metrics import Metrics
from primia.learning.terms import study_mechanism
from primia.pooled_quality import pooled_quality
from primia.privacy.accounting import epsilon
from primia.privacy.reconstruction import reconstruction_bound
from primia.report.quality import Quality, SiteQuality
from primia.report.record import ModelRecord, Scores, StudyRecord
from primia.report.report import (
    MAX_BYTES,
    Prices,
    Reconstruction,
    Report,
    from_json,
    with_evidence,
)
from primia.report.view import best_and_last
from primia.study import metric_layout
from primia.types import SiteId

CANDIDATES = 256
"""Films among which an attacker looks for the right one, as in `primia attack invert`."""
FEWEST_PATIENTS = 20
"""A hospital trains with no fewer, unless its own file says so (`caps.min_patients`)."""
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


def prices(record: StudyRecord, plan: StudyPlan) -> Prices:
    """ε by round, and how likely a film can be rebuilt from what the sites were charged for."""
    charged = {s.site: s.rounds_charged for s in record.sites}
    counts = sorted({plan.rounds, *charged.values()})
    # Six counts are priced; any other takes the next larger one's, which errs towards more.
    marks = counts[:: -max(1, -(-len(counts) // 6))][::-1]
    bounds = []
    for among in (CANDIDATES, FEWEST_PATIENTS):
        by_mark = {m: _reconstruction(plan, m, 1 / among) for m in marks}
        at = {n: by_mark[next(m for m in marks if m >= n)] for n in counts}
        sites = {site: at[rounds] for site, rounds in charged.items()}
        bounds.append(Reconstruction(among, at[plan.rounds], sites))
    return Prices(epsilon_by_round(plan), tuple(bounds))


def _reconstruction(plan: StudyPlan, rounds: int, prior: float) -> float:
    if rounds <= 0:
        return prior
    whole = study_mechanism(plan)
    run = whole and replace(whole, steps=rounds * plan.training.local_steps)
    return reconstruction_bound([run], prior)


def write_report(
    record: StudyRecord,
    plan: StudyPlan,
    folder: Path,
    *,
    findings: Sequence[Finding] = (),
    quality: Sequence[SiteQuality] = (),
    local: bool = False,
) -> list[Path]:
    """`report.html`, `report.json`, `model-card.md` and `result.json` into `folder`.

    Findings and quality that an earlier report of this plan in `folder` shows stay in it.
    Raises DataError and PolicyRefused as `with_evidence`, DataError when that report is damaged.
    """
    from primia.report import card, html
    from primia.report import record as recorded
    from primia.report import report as whole

    report = Report(record, prices(record, plan), _pooled(record, plan), local=local)
    earlier = earlier_report(folder)
    if earlier is not None and earlier.record.plan_digest == record.plan_digest:
        report = with_evidence(report, earlier.findings, earlier.quality)
    report = with_evidence(report, findings, quality)
    texts = {
        "report.html": html.render(report),
        "report.json": whole.to_json(report) + "\n",
        "model-card.md": card.markdown(report),
        "result.json": recorded.to_json(record) + "\n",
    }
    for name, text in texts.items():
        # Whole or not at all, and never through a link that lies in a folder from elsewhere.
        part = folder / f"{name}.part"
        part.unlink(missing_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(folder / name)
    return [folder / name for name in texts]


def _pooled(record: StudyRecord, plan: StudyPlan) -> dict[int, Quality]:
    """Quality of the best and the last model on the films of all sites.

    Raises DataError for scores of other classes than the plan's, or of none.
    """
    shown = {m.number: m.scores for m in best_and_last(record) if m is not None and m.scores}
    try:
        return {n: pooled_quality(s, plan.model.classes) for n, s in shown.items()}
    except ValueError as err:
        raise DataError(
            f"result.json: the scores contradict the plan ({err}); export the study again"
        ) from err


def earlier_report(folder: Path) -> Report | None:
    """The report that lies in `folder`. Raises DataError when it is damaged."""
    path = folder / "report.json"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"it is larger than {MAX_BYTES} bytes")
        return from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (DataError, UnicodeDecodeError) as err:
        raise DataError(f"{path}: {err}; or remove it, with the findings in it") from err
