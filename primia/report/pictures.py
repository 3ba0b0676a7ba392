"""The figures and matrices of a report, with their words, ready for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from primia.report import curves, figures, plan_words
from primia.report.quality import FLOOR, Estimate, Quality, SiteQuality
from primia.report.record import ModelRecord, Scores
from primia.report.report import Report
from primia.report.words import clean, shortened

MOST_DRAWN = 12  # hospitals whose curves are drawn; the table has all of them
_CAPTIONS = {
    "roc": "The dotted line is guessing.",
    "pr": "AP is the average precision; guessing has the class's share of the films.",
    "calibration": "On the dotted line predicted probabilities come true. ECE is the mean distance "
    "from it.",
}


@dataclass(frozen=True)
class Picture:
    """A figure, what it shows in words, and what a reader should know about it."""

    svg: Markup
    alt: str
    caption: str


@dataclass(frozen=True)
class Matrix:
    """One model's confusion matrix. rows: per true class (name, films, cells)."""

    title: str
    rows: tuple[tuple[str, int, tuple[tuple[int, float, int], ...]], ...]
    # a cell: count, share of its row in percent, shade 0 to 9


@dataclass(frozen=True)
class ShownModel:
    """A model whose quality is shown. name: "best (round 7)"; quality: on all sites' films."""

    name: str
    model: ModelRecord
    scores: Scores
    quality: Quality | None

    @property
    def auc(self) -> Estimate:
        """With its interval where that is known."""
        return self.quality.auc if self.quality else Estimate(self.scores.auc)

    def class_auc(self, number: int) -> Estimate:
        """Of one class against the rest."""
        if self.quality:
            return self.quality.classes[number].auc
        return Estimate(self.scores.auc_per_class[number])


@dataclass(frozen=True)
class SiteDetails:
    """What is drawn of one site's own measurement."""

    site: SiteQuality
    model: str  # "best (round 7)"
    pictures: tuple[Picture, ...]
    matrix: Matrix | None


def _picture(svg: str, alt: str, caption: str) -> Picture:
    return Picture(Markup(svg), alt, caption)  # noqa: S704 - our own SVG


def round_pictures(report: Report) -> tuple[Picture, ...]:
    """AUC, loss and ε by round; none before a model was evaluated."""
    record = report.record
    auc = {m.number: m.scores.auc for m in record.models if m.scores}
    loss = {m.number: m.scores.loss for m in record.models if m.scores}
    made = {a.number for a in record.committed}
    spent = {n: e for n, e in report.prices.epsilon_by_round.items() if n in made}
    pictures = []
    if auc:
        first, last = auc[min(auc)], auc[max(auc)]
        pictures += [
            _picture(
                figures.auc_figure(auc, record.best),
                f"AUC per round, from {first:.3f} to {last:.3f}",
                "One is perfect, one half is guessing. Round 0 is the untrained model.",
            ),
            _picture(
                figures.loss_figure(loss),
                f"Loss per round, from {loss[min(loss)]:.3f} to {loss[max(loss)]:.3f}",
                "Mean cross entropy of a film; lower is better.",
            ),
        ]
    if spent and plan_words.is_private(record):
        pictures.append(
            _picture(
                figures.epsilon_figure(spent, record.planned_epsilon),
                f"ε per round, up to {max(spent.values()):.2f}",
                "For a site that took part in every round so far; one that missed rounds "
                "spent less.",
            )
        )
    return tuple(pictures)


def roc_picture(shown: Sequence[ShownModel], classes: tuple[str, ...]) -> Picture | None:
    """ROC curves of the shown models on the films of all sites."""
    if not shown:
        return None
    # With two classes the second curve is the first one mirrored: the last class stands for both.
    first = len(classes) - 1 if len(classes) == 2 else 0
    panels = [f"{shortened(name, 20)} against the rest" for name in classes[first:]]
    if len(classes) == 2:
        panels = [f"{shortened(classes[1], 18)} against {shortened(classes[0], 18)}"]
    models = [
        curves.RocCurves(
            m.name, m.scores.roc[-len(panels) :], m.scores.auc_per_class[-len(panels) :]
        )
        for m in shown
    ]
    return _picture(
        curves.roc_figure(models, panels),
        "ROC curves of " + " and ".join(m.name for m in shown),
        "From scores counted in bins at the sites, so the curves have corners.",
    )


def matrix(title: str, classes: tuple[str, ...], confusion: tuple[tuple[int, ...], ...]) -> Matrix:
    """A confusion matrix with the share of each true class."""
    rows = []
    for label, counts in zip(classes, confusion, strict=False):
        total = sum(counts)
        shares = [100 * c / total if total else 0.0 for c in counts]
        cells = tuple((c, p, min(9, int(p / 10))) for c, p in zip(counts, shares, strict=True))
        rows.append((label, total, cells))
    return Matrix(title, tuple(rows))


def quality_pictures(
    prefix: str, quality: Quality, whose: str, *, binary: bool, shared: bool = False
) -> tuple[Picture, ...]:
    """ROC, precision and recall, calibration. shared: without what rests on few patients."""
    drawn = curves.quality_figures(prefix, quality, binary=binary)
    names = {"roc": "ROC", "pr": "Precision against recall", "calibration": "Calibration"}
    captions = dict(_CAPTIONS)
    if shared:
        captions["calibration"] += f" Stretches with fewer than {FLOOR} patients are left out."
    return tuple(
        _picture(svg, f"{names[kind]} {whose}", captions[kind]) for kind, svg in drawn.items()
    )


def pooled_pictures(shown: Sequence[ShownModel], classes: tuple[str, ...]) -> tuple[Picture, ...]:
    """Precision and recall, and calibration, of the first shown model on all sites' films."""
    if not shown or shown[0].quality is None:
        return ()
    whole = quality_pictures(
        "all", shown[0].quality, "on the films of all hospitals", binary=len(classes) == 2
    )
    return tuple(p for p in whole if not p.alt.startswith("ROC"))  # it has a figure of its own


def site_details(
    report: Report, shown: Sequence[ShownModel], classes: tuple[str, ...]
) -> tuple[SiteDetails, ...]:
    """The curves of the first hospitals that measured by themselves."""
    names = {m.digest: f"round {m.number}" for m in report.record.models}
    names |= {m.model.digest: m.name for m in shown}
    found = []
    for number, site in enumerate(report.quality[:MOST_DRAWN]):
        counts = site.quality.confusion
        found.append(
            SiteDetails(
                site=site,
                model=names.get(site.model, ""),
                pictures=quality_pictures(
                    f"site{number}",
                    site.quality,
                    f"at {clean(site.site)}",
                    binary=len(classes) == 2,
                    shared=site.shared,
                ),
                matrix=None if counts is None else matrix(clean(site.site), classes, counts),
            )
        )
    return tuple(found)


def intervals_picture(report: Report) -> Picture | None:
    """The study's model beside those that hospitals trained alone, with intervals."""
    rows = [
        (q.site, [("the study’s model", q.quality.auc), *((c.name, c.auc) for c in q.comparisons)])
        for q in report.quality[:MOST_DRAWN]
    ]
    if not rows:
        return None
    return _picture(
        curves.intervals_figure(rows),
        "AUC with intervals of " + ", ".join(clean(q.site) for q in report.quality[:MOST_DRAWN]),
        "Blue: the study’s model on this hospital’s own test films. Orange: a model trained at "
        "this hospital alone, tested on the same test films.",
    )
