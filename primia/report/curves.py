"""Figures of quality: ROC, precision and recall, calibration, and intervals side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from primia.report.drawing import BLUE, DOTS, GREEN, GREY, ORANGE, STYLE, svg_of
from primia.report.quality import Estimate, Quality
from primia.report.words import number_text, shortened

_MODEL_LINES = ((BLUE, "solid"), (ORANGE, (0, (4, 2))))  # told apart without colour too
_CLASS_COLOURS = (BLUE, ORANGE, GREEN, "#8e4585", "#7a5c00", "#4b5660")
_CLASS_MARKS = ("o", "s", "^", "D", "v", "X")
_CLASS_DASHES = ("solid", (0, (4, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (8, 2)), (0, (2, 2)))


@dataclass(frozen=True)
class RocCurves:
    """The ROC curves of one model. curves: per panel the (false, true positive rate) points."""

    name: str
    curves: tuple[tuple[tuple[float, float], ...], ...]
    auc: tuple[float, ...]


def roc_figure(models: Sequence[RocCurves], panels: Sequence[str]) -> str:
    """ROC curves, one panel for each class in `panels`, one line for each of (at most two) models.

    Panels stand in rows of three.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.3 * columns, 3.4 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for i, (axes, title) in enumerate(zip(grid, panels, strict=False)):
            axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=DOTS)
            for model, (colour, dash) in zip(models, _MODEL_LINES, strict=False):
                x, y = zip(*model.curves[i], strict=True) if model.curves[i] else ((), ())
                label = f"{model.name}: {model.auc[i]:.3f}"
                axes.plot(x, y, color=colour, linestyle=dash, label=label)
            axes.set(
                title=title,
                xlabel="false positive rate",
                xlim=(-0.01, 1),
                ylim=(0, 1.01),
            )
            axes.set_aspect("equal")
            axes.legend(loc="lower right", title="AUC", alignment="left", fontsize=9)
            if i % columns == 0:
                axes.set_ylabel("true positive rate")
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        return svg_of(figure, "roc")


@dataclass(frozen=True)
class _Kind:
    """One kind of curve: its title, axes, and the figure in its legend."""

    title: str
    x: str
    y: str
    figure: str
    diagonal: bool = True
    points: bool = False  # alone: a line between few of them would look like knowledge


_ROC = _Kind("ROC", "false positive rate", "true positive rate", "AUC")
_PR = _Kind("Precision and recall", "recall", "precision", "AP", diagonal=False)
_CALIBRATION = _Kind(
    "Calibration", "predicted probability", "share of the class", "ECE", points=True
)
_Line = tuple[str, float | None, Sequence[tuple[float, float]]]


def quality_figures(prefix: str, quality: Quality, *, binary: bool) -> dict[str, str]:
    """ROC, precision against recall, and calibration, by name; a line for each class.

    binary: of the study's two classes the second one stands for both. A figure without any points
        is left out.
    """
    classes = quality.classes[-1:] if binary else quality.classes[: len(_CLASS_COLOURS)]
    kinds: dict[str, tuple[_Kind, list[_Line]]] = {
        "roc": (_ROC, [(c.name, c.auc.value, c.roc) for c in classes]),
        "pr": (_PR, [(c.name, c.average_precision.value, c.pr) for c in classes]),
        "calibration": (
            _CALIBRATION,
            [(c.name, c.ece, [(b.predicted, b.observed) for b in c.reliability]) for c in classes],
        ),
    }
    return {
        name: _lines(f"{prefix}-{name}", kind, lines)
        for name, (kind, lines) in kinds.items()
        if any(points for _, _, points in lines)
    }


_SIDE, _LEFT, _RIGHT, _ABOVE, _BELOW = 2.6, 0.6, 0.1, 0.32, 0.5  # inches: square, and around it


def _lines(name: str, kind: _Kind, lines: Sequence[_Line]) -> str:
    # Placed by hand: the constrained layout cuts the title off above a square with a legend below.
    legend = 0.35 + 0.19 * len(lines)
    width, height = _LEFT + _SIDE + _RIGHT, _ABOVE + _SIDE + _BELOW + legend
    place = (_LEFT / width, (legend + _BELOW) / height, _SIDE / width, _SIDE / height)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes(place)
        if kind.diagonal:
            axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=DOTS)
        for (label, value, points), colour, dash, mark in zip(
            lines, _CLASS_COLOURS, _CLASS_DASHES, _CLASS_MARKS, strict=False
        ):
            x, y = zip(*points, strict=True) if points else ((), ())
            said = f"{shortened(label)}: {number_text(value)}"
            form = {"linestyle": "", "marker": mark} if kind.points else {"linestyle": dash}
            axes.plot(x, y, color=colour, label=said, **form)
        axes.set(title=kind.title, xlabel=kind.x, ylabel=kind.y)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        # Below the curves, which may be anywhere.
        figure.legend(
            loc="lower left", title=kind.figure, alignment="left", fontsize=9, borderaxespad=0.2
        )
        return svg_of(figure, name)


def intervals_figure(rows: Sequence[tuple[str, Sequence[tuple[str, Estimate]]]]) -> str:
    """AUC with its interval, a group of rows for each site: (site, [(model, AUC), …])."""
    count = sum(len(models) for _, models in rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 0.7 + 0.27 * count + 0.12 * len(rows)), layout="constrained")
        axes = figure.subplots()
        place, marks, names = 0.0, [], []
        for site, models in rows:
            for i, (model, auc) in enumerate(models):
                if auc.value is not None:
                    low, high = auc.low or auc.value, auc.high or auc.value
                    bars = [[max(0.0, auc.value - low)], [max(0.0, high - auc.value)]]
                    axes.errorbar(
                        [auc.value], [place], xerr=bars, fmt="o" if i == 0 else "s", capsize=3,
                        color=BLUE if i == 0 else ORANGE, markersize=5, linewidth=1.4,
                    )  # fmt: skip
                marks.append(place)
                whose = f"{shortened(site)}: " if i == 0 else ""
                names.append(whose + shortened(model, 48))
                place -= 1
            place -= 0.45
        axes.set(title="AUC with 95 % interval", xlabel="AUC", ylim=(place + 0.7, 0.7))
        axes.set_yticks(marks, names)
        axes.grid(axis="y", visible=False)
        return svg_of(figure, "intervals")
