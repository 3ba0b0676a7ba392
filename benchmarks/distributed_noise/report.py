"""The result on a terminal and as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]
NAMES = {"none": "no privacy", "site": "each site alone", "distributed": "together"}


def table(result: dict[str, Any], console: Console) -> None:
    """One row for each number of sites, ε and mode; fits 80 columns."""
    grid = Table(
        title=f"AUC on test films, δ = {result['delta']:g}, runs: {result['repeats']}",
        box=SIMPLE_HEAD,
    )
    for head in ("sites", "ε", "noise", "AUC", "steps", "rate", "multiplier"):
        grid.add_column(head, justify="right")
    for row in result["rows"]:
        chosen = row["chosen"]
        private = row["target_epsilon"] is not None
        grid.add_row(
            str(row["sites"]),
            f"{row['target_epsilon']:g}" if private else "–",
            NAMES[row["mode"]],
            f"{row['test_auc']:.3f}",
            str(chosen["steps"]),
            f"{chosen['learning_rate']:g}",
            f"{chosen['noise_multiplier']:.2f}" if private else "–",
        )
    console.print(grid)
    console.print(f"aggregator: {result['aggregator']}", style="dim", highlight=False)


def chart(rows: Sequence[Row], path: Path) -> None:
    """AUC by number of sites and ε, one mark for each mode, training without privacy as a line."""
    from matplotlib.figure import Figure

    groups = list(
        dict.fromkeys((r["sites"], r["target_epsilon"]) for r in rows if r["target_epsilon"])
    )
    figure = Figure(figsize=(2 + 1.4 * len(groups), 3.6), layout="constrained")
    axes = figure.subplots()
    for i, (mode, marker) in enumerate((("site", "o"), ("distributed", "D"))):
        own = {(r["sites"], r["target_epsilon"]): r["test_auc"] for r in rows if r["mode"] == mode}
        x = [n + (i - 0.5) * 0.4 for n in range(len(groups))]
        y = [own.get(group, float("nan")) for group in groups]
        axes.scatter(x, y, s=60, marker=marker, label=NAMES[mode])
        for at in zip(x, y, strict=True):
            axes.annotate(f"{at[1]:.3f}", at, (0, -16), textcoords="offset points", ha="center")
    for n, (sites, _) in enumerate(groups):
        plain = next((r["test_auc"] for r in rows if (r["mode"], r["sites"]) == ("none", sites)), 0)
        label = NAMES["none"] if n == 0 else None
        axes.hlines(plain, n - 0.42, n + 0.42, colors="black", linestyles="dashed", label=label)
    lowest = min(r["test_auc"] for r in rows)
    axes.set_ylim(lowest - 0.015, 1.0)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_xticks(range(len(groups)), [f"{s} sites\nε = {e:g}" for s, e in groups])
    axes.set_ylabel("AUC on test films")
    axes.set_title("Who adds the noise, at the same ε (axis does not start at 0.5)", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", frameon=False, ncols=3, fontsize=8)
    figure.savefig(path, dpi=150)
