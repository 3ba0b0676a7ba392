"""A hospital's quality in a terminal: the figures, the classes at their thresholds, the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from primia.report.quality import Estimate, Quality, SiteQuality
from primia.report.words import NONE, clean

_MOST_SENTENCES = 12  # of words from a file


def tables(found: SiteQuality) -> Iterator[RenderableType]:
    """What to print, from top to bottom."""
    yield _figures(found)
    yield _classes(found.quality, shared=found.shared)
    yield _thresholds(found.quality)
    if found.comparisons:
        yield _comparisons(found)
    for words in (found.quality.method, found.limits):
        sentences = words.split(". ")[:_MOST_SENTENCES]
        yield Text(". ".join(map(clean, sentences)), style="dim")


def estimate_text(found: Estimate, digits: int = 3) -> str:
    """A figure with its interval."""
    if found.value is None:
        return NONE
    value = f"{found.value:.{digits}f}"
    if found.low is None or found.high is None:
        return value
    return f"{value} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def sites_table(found: Sequence[SiteQuality]) -> Table:
    """Several hospitals, a line each."""
    table = Table(box=box.SIMPLE_HEAD, title=Text("each site on its own films, by patient"))
    for name in ("site", "the study's AUC", "alone", "the study's minus this"):
        table.add_column(name, justify="left" if name == "site" else "right")
    for one in found:
        first = one.comparisons[0] if one.comparisons else None
        table.add_row(
            Text(clean(one.site)),
            estimate_text(one.quality.auc),
            estimate_text(first.auc) if first else NONE,
            estimate_text(first.difference) if first else NONE,
        )
    return table


def _figures(found: SiteQuality) -> Table:
    quality = found.quality
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    counts = f"{_count(quality.films)} films of {_count(quality.patients)} patients"
    for name, value in (
        ("hospital", f"{clean(found.site)}, study {clean(found.study)}"),
        ("tested on", counts + (" (rounded down)" if found.shared else "")),
        ("model", f"{clean(found.model)[:16]}…"),
        ("AUC", estimate_text(quality.auc)),
        ("accuracy", estimate_text(quality.accuracy)),
        ("balanced accuracy", estimate_text(quality.balanced_accuracy)),
        ("Brier score", _number(quality.brier)),
        (
            "calibration error",
            f"{_number(quality.ece)}; likeliest class {_number(quality.top_label_ece)}",
        ),
        ("design effect", f"{_number(found.design_effect)} (variance by patient over by film)"),
    ):
        table.add_row(name, Text(value))
    return table


def _classes(quality: Quality, *, shared: bool) -> Table:
    said = "; each count rounded down by itself, so they add up to less" if shared else ""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text("each class against the rest" + said),
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("class", overflow="fold")
    for name in ("films", "patients", "AUC", "average\nprecision", "share", "Brier", "ECE"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in quality.classes:
        table.add_row(
            Text(clean(one.name)),
            _count(one.films),
            _count(one.patients),
            _below(one.auc, 3),
            _below(one.average_precision, 3),
            _number(one.prevalence),
            _number(one.brier),
            _number(one.ece),
        )
    return table


def _thresholds(quality: Quality) -> Table:
    """Made for 80 columns: the class stands above its thresholds, an interval below its figure."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text("at thresholds (* chosen on these same films, so it flatters)"),
        pad_edge=False,
    )
    table.add_column("class, threshold", overflow="fold")
    for name in ("p from", "sensitivity", "specificity", "PPV", "NPV"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in quality.classes:
        table.add_row(Text(clean(one.name), style="bold"))
        for point in one.operating:
            table.add_row(
                Text(clean(point.name) + ("*" if point.chosen_here else "")),
                f"{point.threshold:.2f}",
                *(
                    _below(e, 2)
                    for e in (point.sensitivity, point.specificity, point.ppv, point.npv)
                ),
            )
    return table


def _below(found: Estimate, digits: int) -> str:
    """A figure with its interval in the line below, and without what would take room there."""
    return estimate_text(found, digits).replace(" (", "\n").replace(" to ", "–").rstrip(")")


def _comparisons(found: SiteQuality) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=Text("against models of this hospital alone"))
    table.add_column("model")
    table.add_column("AUC", justify="right")
    table.add_column("the study's minus this", justify="right")
    table.add_row("the study's", estimate_text(found.quality.auc), "")
    for one in found.comparisons:
        table.add_row(Text(clean(one.name)), estimate_text(one.auc), estimate_text(one.difference))
    return table


def _count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"
