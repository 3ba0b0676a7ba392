"""A study as one self-contained HTML page: no script, no address, nothing fetched.

`page/` beside this module gives the form, a file for each section; every value is escaped by jinja2
(autoescape), the figures are the only markup that goes in as it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from primia.report import figures, plan_words, view, words
from primia.report.record import ModelRecord, Scores, StudyRecord

_NO_EPSILON: Mapping[int, float] = MappingProxyType({})


@dataclass(frozen=True)
class _Picture:
    """A figure, what it shows in words, and what a reader should know about it."""

    svg: Markup
    alt: str
    caption: str


@dataclass(frozen=True)
class _Confusion:
    """One model's confusion matrix. rows: per true class (name, films, cells)."""

    title: str
    rows: tuple[tuple[str, int, tuple[tuple[int, float, int], ...]], ...]
    # a cell: count, share of its row in percent, shade 0 to 9


def render(record: StudyRecord, *, epsilon_by_round: Mapping[int, float] = _NO_EPSILON) -> str:
    """The report of `record` as the text of one HTML file.

    epsilon_by_round: ε after a site has taken part in so many rounds, as the accountant prices
        it; rounds that are not in it get no point in the figure. The report prices nothing itself.
    """
    environment = Environment(
        loader=PackageLoader("primia.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        clean=words.clean,
        epsilon=words.epsilon_text,
        number=words.number_text,
        duration=words.duration_text,
        time=words.time_text,
        votes=view.votes_text,
        returned=view.return_text,
    )
    best, last = view.best_and_last(record)
    shown = _shown_models(best, last)
    sites = view.site_names(record)
    classes = view.class_names(record)
    rows = view.attempt_rows(record, epsilon_by_round)
    spent = view.highest_epsilon(record)
    return environment.get_template("page.html").render(
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
        initial=next((m.scores for m in record.models if m.number == 0), None),
        pictures=_round_pictures(record, epsilon_by_round),
        roc=_roc_picture(shown, classes),
        matrices=tuple(_confusion(name, scores, classes) for name, scores in shown),
        class_scores=_class_auc(shown, classes),
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
    )


def _shown_models(
    best: ModelRecord | None, last: ModelRecord | None
) -> tuple[tuple[str, Scores], ...]:
    """The best and the last model with their names; once when they are the same one."""
    if last is None or last.scores is None:
        return ()
    if best is None or best.scores is None or best.number == last.number:
        name = "last" if best is None else "best and last"
        return ((f"{name} (round {last.number})", last.scores),)
    return (
        (f"best (round {best.number})", best.scores),
        (f"last (round {last.number})", last.scores),
    )


def _odds(epsilon: float | None) -> str:
    """e^ε in words: how far the odds of 'was this patient in it' may move."""
    if epsilon is None:
        return ""
    return f"{math.exp(epsilon):,.0f}" if epsilon < 20 else "more than 100,000,000"


def _round_pictures(
    record: StudyRecord, epsilon_by_round: Mapping[int, float]
) -> tuple[_Picture, ...]:
    auc = {m.number: m.scores.auc for m in record.models if m.scores}
    loss = {m.number: m.scores.loss for m in record.models if m.scores}
    made = {a.number for a in record.committed}
    spent = {n: e for n, e in epsilon_by_round.items() if n in made}
    pictures = []
    if auc:
        first, last = auc[min(auc)], auc[max(auc)]
        pictures += [
            _Picture(
                Markup(figures.auc_figure(auc, record.best)),  # noqa: S704 - our own SVG
                f"AUC per round, from {first:.3f} to {last:.3f}",
                "One is perfect, one half is guessing. Round 0 is the untrained model.",
            ),
            _Picture(
                Markup(figures.loss_figure(loss)),  # noqa: S704 - our own SVG
                f"Loss per round, from {loss[min(loss)]:.3f} to {loss[max(loss)]:.3f}",
                "Mean cross entropy of a film; lower is better.",
            ),
        ]
    if spent and plan_words.is_private(record):
        pictures.append(
            _Picture(
                Markup(figures.epsilon_figure(spent, record.planned_epsilon)),  # noqa: S704
                f"ε per round, up to {max(spent.values()):.2f}",
                "For a site that took part in every round so far; one that missed rounds "
                "spent less.",
            )
        )
    return tuple(pictures)


def _roc_picture(
    shown: tuple[tuple[str, Scores], ...], classes: tuple[str, ...]
) -> _Picture | None:
    if not shown:
        return None
    # With two classes the second curve is the first one mirrored: the last class stands for both.
    first = len(classes) - 1 if len(classes) == 2 else 0
    panels = [f"{name} against the rest" for name in classes[first:]]
    if len(classes) == 2:
        panels = [f"{classes[1]} against {classes[0]}"]
    models = [
        figures.RocCurves(name, s.roc[-len(panels) :], s.auc_per_class[-len(panels) :])
        for name, s in shown
    ]
    return _Picture(
        Markup(figures.roc_figure(models, panels)),  # noqa: S704 - our own SVG
        "ROC curves of " + " and ".join(name for name, _ in shown),
        "From scores counted in bins at the sites, so the curves have corners.",
    )


def _confusion(name: str, scores: Scores, classes: tuple[str, ...]) -> _Confusion:
    rows = []
    for label, counts in zip(classes, scores.confusion, strict=False):
        total = sum(counts)
        shares = [100 * c / total if total else 0.0 for c in counts]
        cells = tuple((c, p, min(9, int(p / 10))) for c, p in zip(counts, shares, strict=True))
        rows.append((label, total, cells))
    return _Confusion(name, tuple(rows))


def _class_auc(
    shown: tuple[tuple[str, Scores], ...], classes: tuple[str, ...]
) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """AUC of each class against the rest, one value for each shown model; none for two classes."""
    if len(classes) <= 2:
        return ()
    return tuple(
        (label, tuple(s.auc_per_class[i] for _, s in shown)) for i, label in enumerate(classes)
    )
