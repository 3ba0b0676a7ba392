"""A report as one self-contained HTML page: no script, no address, nothing fetched.

`page/` beside this module gives the form, a file for each section; every value is escaped by jinja2
(autoescape), the figures are the only markup that goes in as it is.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from primia.findings import Verdict
from primia.report import card, checklists, evidence, pictures, plan_words, view, words
from primia.report.quality import AcrossSites, Estimate, across_sites
from primia.report.record import ModelRecord
from primia.report.report import Report


def render(report: Report) -> str:
    """`report` as the text of one HTML file."""
    record = report.record
    best, last = view.best_and_last(record)
    shown = _shown_models(report, best, last)
    sites = view.site_names(record)
    classes = view.class_names(record)
    rows = view.attempt_rows(record, report.prices.epsilon_by_round)
    spent = view.highest_epsilon(record)
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            record=record,
            private=plan_words.is_private(record),
            colluding=plan_words.colluding_sites(record),
            best=best,
            last=last,
            shown=shown,
            spent=spent,
            odds=_odds(spent),
            delta=words.delta_text(record.delta),
            classes=classes,
            roster=words.look_up(record.plan, "sites") or sites,
            rounds_planned=words.look_up(record.plan, "rounds"),
            initial=next((m for m in record.models if m.number == 0), None),
            pictures=pictures.round_pictures(report),
            roc=pictures.roc_picture(shown, classes),
            matrices=tuple(pictures.matrix(m.name, classes, m.scores.confusion) for m in shown),
            class_scores=_class_auc(shown, classes),
            intervals=pictures.intervals_picture(report),
            pooled=shown[0].quality if shown else None,
            pooled_pictures=pictures.pooled_pictures(shown, classes),
            across=_across(report, shown),
            details=pictures.site_details(report, shown, classes),
            measured={q.site: q for q in report.quality},
            committed=[r for r in rows if r.attempt in record.committed],
            returns=[r for r in rows if r.attempt.returned_to is not None],
            voted=any(a.votes is not None for a in record.attempts),
            groups=words.look_up(record.plan, "aggregation.groups") or 1,
            aborted=[r for r in rows if r.attempt.outcome == "aborted"],
            absences=[(r, a) for r in rows for a in r.attempt.lost],
            sites=sites,
            grid=view.participation(record, sites),
            plan_rows=plan_words.plan_in_words(record),
            plan_json=json.dumps(record.plan, indent=2, ensure_ascii=False),
            varying_films=len({m.scores.sites for m in record.models if m.scores}) > 1,
            trust=evidence.trust_rows(record),
            claims=evidence.claim_rows(record),
            evidence=evidence.shown_findings(report),
            audits=[f for f in report.findings if f.command.startswith("audit")],
            verdicts=Counter(f.verdict for f in report.findings if f.verdict is not Verdict.TOLD),
            card=card.parts(report),
            checklists=(
                ("CLAIM, 2024 update", checklists.CLAIM),
                ("TRIPOD+AI", checklists.TRIPOD_AI),
            ),
            section_names=checklists.SECTIONS,
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("primia.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        bound=words.bound_text,
        clean=words.clean,
        duration=words.duration_text,
        epsilon=words.epsilon_text,
        estimate=words.estimate_text,
        parts=words.estimate_parts,
        number=words.number_text,
        prose=lambda text: words.clean(text, words.MAX_PROSE),
        returned=view.return_text,
        time=words.time_text,
        votes=view.votes_text,
    )
    return environment


def _shown_models(
    report: Report, best: ModelRecord | None, last: ModelRecord | None
) -> tuple[pictures.ShownModel, ...]:
    """The best and the last model with their names; once when they are the same one."""

    def shown(name: str, model: ModelRecord) -> pictures.ShownModel:
        assert model.scores is not None
        named = f"{name} (round {model.number})"
        return pictures.ShownModel(named, model, model.scores, report.pooled.get(model.number))

    if last is None or last.scores is None:
        return ()
    if best is None or best.scores is None or best.number == last.number:
        return (shown("last" if best is None else "best and last", last),)
    return (shown("best", best), shown("last", last))


def _across(report: Report, shown: Sequence[pictures.ShownModel]) -> AcrossSites | None:
    """What the hospitals' own files say together of the first shown model."""
    if not shown:
        return None
    of_model = [q for q in report.quality if q.model == shown[0].model.digest]
    return across_sites(of_model, shown[0].auc) if len(of_model) > 1 else None


def _odds(epsilon: float | None) -> str:
    """e^ε in words: how far the odds of 'was this patient in it' may move."""
    if epsilon is None:
        return ""
    return f"{math.exp(epsilon):,.0f}" if epsilon < 20 else "more than 100,000,000"


def _class_auc(
    shown: Sequence[pictures.ShownModel], classes: tuple[str, ...]
) -> tuple[tuple[str, tuple[Estimate, ...]], ...]:
    """AUC of each class against the rest, one value for each shown model; none for two classes."""
    if len(classes) <= 2:
        return ()
    return tuple((label, tuple(m.class_auc(i) for m in shown)) for i, label in enumerate(classes))
