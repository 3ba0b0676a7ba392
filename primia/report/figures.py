"""Figures of the rounds: AUC, loss and ε."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from primia.report.drawing import BLUE, DOTS, GREEN, GREY, INK, ORANGE, STYLE, svg_of
from primia.report.words import epsilon_text


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


def _rounds_figure(name: str, title: str, draw: Callable[[Axes], None]) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.3, 2.5), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set(title=title, xlabel="rounds trained")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        return svg_of(figure, name)


def _line(axes: Axes, points: Mapping[int, float], colour: str) -> None:
    x = sorted(points)
    # Marks only while they can be told apart.
    axes.plot(x, [points[i] for i in x], color=colour, marker="o" if len(x) <= 40 else "")


def _level(axes: Axes, y: float, text: str, *, right: bool = False) -> None:
    """A dashed horizontal line with its name above one end."""
    axes.axhline(y, color=GREY, linewidth=1, linestyle=DOTS)
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
