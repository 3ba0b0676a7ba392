"""The report's figures as inline SVG text.

Drawn with matplotlib's object interface: no global figure list, no display, no font is fetched.
Text stays text (`svg.fonttype: none`), so the page's own font and a screen reader reach it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from primia.report.words import epsilon_text

# Okabe and Ito's palette, told apart with any common colour vision, plus neutral greys.
BLUE, ORANGE, GREEN, GREY, INK = "#0072b2", "#d55e00", "#00785a", "#8a939c", "#1f2933"
_DOTS = (0, (2, 2))

_MODEL_LINES = ((BLUE, "solid"), (ORANGE, (0, (4, 2))))  # told apart without colour too
_STYLE: dict[Any, Any] = {  # matplotlib's stubs list every key, and the list moves
    "svg.fonttype": "none",
    "text.parse_math": False,  # a label with a dollar sign is a label, not a formula
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e8ec",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "text.color": INK,
    "xtick.color": "#4b5660",
    "ytick.color": "#4b5660",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}


@dataclass(frozen=True)
class RocCurves:
    """The ROC curves of one model. curves: per panel the (false, true positive rate) points."""

    name: str
    curves: tuple[tuple[tuple[float, float], ...], ...]
    auc: tuple[float, ...]


def auc_figure(points: Mapping[int, float], best: int | None) -> str:
    """AUC against rounds trained; `points` maps a model's number to its AUC."""

    def draw(axes: Axes) -> None:
        _line(axes, points, BLUE)
        _level(axes, 0.5, "chance", right=True)
        axes.set_ylim(max(0.0, min([0.5, *points.values()]) - 0.05), 1.01)
        if best is not None and best in points:
            ring = axes.plot([best], [points[best]], "o", label=f"best: {points[best]:.3f}")
            ring[0].set(markersize=9, markerfacecolor="none", markeredgecolor=INK)
            axes.legend(loc="best", handletextpad=0.1, borderaxespad=1.2)

    return _rounds_figure("auc", "AUC on validation films", draw)


def loss_figure(points: Mapping[int, float]) -> str:
    """Mean cross entropy against rounds trained."""

    def draw(axes: Axes) -> None:
        _line(axes, points, GREEN)
        axes.set_ylim(0, 1.08 * max(points.values(), default=1.0) or 1.0)

    return _rounds_figure("loss", "Loss on validation films (nats)", draw)


def epsilon_figure(points: Mapping[int, float], planned: float | None) -> str:
    """ε spent against rounds taken part in, by a site that missed none; starts at nothing."""

    def draw(axes: Axes) -> None:
        _line(axes, {0: 0.0, **points}, ORANGE)
        axes.set_ylim(0, max([*points.values(), planned or 0.0, 0.1]) * 1.15)
        if planned is not None:
            _level(axes, planned, f"whole plan: {epsilon_text(planned)}")

    return _rounds_figure("epsilon", "Privacy loss ε spent, per patient", draw)


def roc_figure(models: Sequence[RocCurves], panels: Sequence[str]) -> str:
    """ROC curves, one panel for each class in `panels`, one line for each of (at most two) models.

    Panels stand in rows of three.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.3 * columns, 3.4 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for i, (axes, title) in enumerate(zip(grid, panels, strict=False)):
            axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=_DOTS)
            for model, (colour, dash) in zip(models, _MODEL_LINES, strict=False):
                x, y = zip(*model.curves[i], strict=True) if model.curves[i] else ((), ())
                label = f"{model.name}: {model.auc[i]:.3f}"
                axes.plot(x, y, color=colour, linestyle=dash, label=label)
            axes.set(title=title, xlabel="false positive rate", xlim=(-0.01, 1), ylim=(0, 1.01))
            axes.set_aspect("equal")
            axes.legend(loc="lower right", title="AUC", alignment="left", fontsize=9)
            if i % columns == 0:
                axes.set_ylabel("true positive rate")
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        return _svg(figure, "roc")


def _rounds_figure(name: str, title: str, draw: Callable[[Axes], None]) -> str:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.3, 2.5), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set(title=title, xlabel="rounds trained")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        return _svg(figure, name)


def _line(axes: Axes, points: Mapping[int, float], colour: str) -> None:
    x = sorted(points)
    # Marks only while they can be told apart.
    axes.plot(x, [points[i] for i in x], color=colour, marker="o" if len(x) <= 40 else "")


def _level(axes: Axes, y: float, text: str, *, right: bool = False) -> None:
    """A dashed horizontal line with its name above one end."""
    axes.axhline(y, color=GREY, linewidth=1, linestyle=_DOTS)
    axes.annotate(
        text,
        (1 if right else 0, y),
        (-2 if right else 4, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right" if right else "left",
        color="#5b6670",
        fontsize=9,
    )


def _svg(figure: Figure, prefix: str) -> str:
    """The figure as an `<svg>` element whose ids all begin with `prefix`.

    One page holds several figures, and matplotlib gives each of them a `figure_1`.
    """
    out = io.StringIO()
    # A fixed salt and no date: the same record gives the same page, byte for byte.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": prefix}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing, transparent=True)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]  # without the XML prolog and its address of a DTD
    return re.sub(r"<[^<>]+>", lambda tag: _prefixed(tag[0], prefix), svg)


def _prefixed(tag: str, prefix: str) -> str:
    for reference in (' id="', "url(#", 'href="#'):
        tag = tag.replace(reference, f"{reference}{prefix}-")
    return tag
