"""The result on a terminal and as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]


def table(result: dict[str, Any], console: Console) -> None:
    """Print one table a section, then what has no figure and why; fits 80 columns."""
    rows: Sequence[Row] = result["rows"]
    console.print(f"Masked sums of {result['length']:,} coordinates", style="bold")
    for section in dict.fromkeys(r["section"] for r in rows):
        console.print(_of_section(section, [r for r in rows if r["section"] == section]))
    for row in rows:
        if "missing" in row:
            text = f"{row['section']}, {row['name']}: {row['missing']}"
            console.print(text, style="yellow", markup=False, highlight=False)
    where = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    console.print(
        f"{where['cpu']}, {where['cores']} cores, load {where['load']:.1f}; {versions}; "
        f"{where['date']}",
        style="dim",
        highlight=False,
    )


def _of_section(section: str, rows: Sequence[Row]) -> Table:
    grid = Table(
        title=section,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    grid.add_column("", max_width=44)
    grid.add_column("ms", justify="right", no_wrap=True)
    grid.add_column("ratio", justify="right", no_wrap=True)
    grid.add_column("of", max_width=16)
    grid.add_column("bar", justify="right", no_wrap=True)
    for row in rows:
        grid.add_row(row["name"], *_cells(row))
    return grid


def _cells(row: Row) -> list[str]:
    if "missing" in row:
        return ["", "–", "", ""]
    milliseconds = f"{1000 * row['best_s']:,.1f}" if "best_s" in row else ""
    return [milliseconds, f"{row['ratio']:,.3g}", row["unit"], _bar(row)]


def _bar(row: Row) -> str:
    """The bar, and whether it is kept."""
    for key, sign in (("at_most", "≤"), ("at_least", "≥")):
        if row.get(key) is not None:
            return f"{sign} {row[key]:g} " + ("[green]✓[/]" if kept(row) else "[red]✗[/]")
    return ""


def kept(row: Row) -> bool:
    """Whether the row keeps its bar; one without a bar or a figure does."""
    if "missing" in row:
        return True
    high, low = row.get("at_most"), row.get("at_least")
    return (high is None or row["ratio"] <= high) and (low is None or row["ratio"] >= low)


def chart(rows: Sequence[Row], path: Path) -> None:
    """One horizontal bar a row on a logarithmic scale, its section's bar as a tick."""
    from matplotlib.figure import Figure

    order = list(dict.fromkeys(r["section"] for r in rows))
    shown = [r for section in order for r in rows if r["section"] == section]
    shown = [r for r in shown if "missing" not in r]
    figure = Figure(figsize=(8.5, 0.6 + 0.24 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(shown):
        bar = row.get("at_most") or row.get("at_least") or 0
        axes.barh(y, row["ratio"], color=("C0", "C2")[order.index(row["section"]) % 2], height=0.7)
        axes.annotate(
            f"{row['ratio']:.3g} {row['unit']}",
            (max(row["ratio"], bar), y),
            (3, 0),
            textcoords="offset points",
            va="center",
            fontsize=6,
        )
        if bar:
            axes.vlines(bar, y - 0.45, y + 0.45, colors="black", linewidth=1.5)
    axes.set_xscale("log")
    axes.set_xlim(right=axes.get_xlim()[1] * 8)  # room for the words
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_yticks(range(len(shown)), [f"{r['section']}: {r['name'].strip()}" for r in shown])
    axes.tick_params(axis="y", labelsize=6)
    axes.invert_yaxis()
    axes.set_xlabel("ratio (black: the bar)")
    axes.set_title("Cost of masked sums", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
