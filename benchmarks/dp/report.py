"""The result on a terminal and as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.dp.engines import NOTES

Row = dict[str, Any]


def table(result: dict[str, Any], console: Console) -> None:
    """Print one table a case, then what has no figure and why; fits 80 columns."""
    rows: Sequence[Row] = result["rows"]
    console.print("A private step over a plain one", style="bold")
    console.print(
        r"ms a step; time: median \[quartiles]; memory: peak (less what was held before);",
        "error of the clipped sum against the loop in float32 and in float64.",
        sep="\n",
        style="dim",
        highlight=False,
    )
    for case in dict.fromkeys(row["case"] for row in rows):
        console.print(_of_case(case, [row for row in rows if row["case"] == case]))
    for row in rows:
        for key, what in (("missing", ""), ("memory_missing", " memory")):
            if key in row:
                text = f"{row['case']}, {row['engine']}{what}: {row[key]}"
                console.print(text, style="yellow", markup=False, highlight=False)
    for prefix, note in NOTES.items():
        if any(row["engine"].startswith(prefix) and "missing" not in row for row in rows):
            console.print(note, style="dim", highlight=False)
    where = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    place = f"{where.get('gpu', where['cpu'])}, one thread"
    console.print(f"{place}; {versions}; {where['date']}", style="dim", highlight=False)


def _of_case(case: str, rows: Sequence[Row]) -> Table:
    grid = Table(
        title=case, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    grid.add_column("engine", no_wrap=True)
    bars = f"time ≤ {rows[0]['time_bar']:.2f}", f"memory ≤ {rows[0]['memory_bar']:.2f}"
    for head in ("plain", "private", *bars, "error", "f64"):
        grid.add_column(head, justify="right")
    for row in rows:
        grid.add_row(row["engine"], *_cells(row))
    return grid


def _cells(row: Row) -> list[str]:
    if "missing" in row:
        return ["–"] * 6
    low, high = row["time_quartiles"]
    memory = "–"
    if "memory_ratio" in row:
        memory = _judged(row, "memory", f"({row['memory_ratio_net']:.2f})")
    return [
        f"{1000 * row['plain_s']:.1f}",
        f"{1000 * row['private_s']:.1f}",
        _judged(row, "time", rf"\[{low:.2f}–{high:.2f}]"),
        memory,
        *(_power(row.get(key)) for key in ("error", "error_float64")),
    ]


def _power(error: float | None) -> str:
    if error is None:
        return "–"
    return f"{error:.0e}" if error else "0"


def _judged(row: Row, what: str, more: str) -> str:
    """The ratio, `more`, and whether the bar is kept; plain training is not judged."""
    ratio = row[f"{what}_ratio"]
    mark = "[green]✓[/]" if ratio <= row[f"{what}_bar"] else "[red]✗[/]"
    return f"{ratio:.2f} {more} " + (" " if row["engine"] == "plain" else mark)


def chart(rows: Sequence[Row], path: Path) -> None:
    """Time ratios by case and engine on a logarithmic scale, with the bars as lines."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    cases = list(dict.fromkeys(row["case"] for row in rows))
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    width = 0.8 / len(engines)
    figure = Figure(figsize=(2 + 2.6 * len(cases), 4.2), layout="constrained")
    axes = figure.subplots()
    for i, engine in enumerate(engines):
        own = [row for row in rows if row["engine"] == engine]
        x = [cases.index(row["case"]) + (i - (len(engines) - 1) / 2) * width for row in own]
        heights = [row.get("time_ratio", float("nan")) for row in own]
        bars = axes.bar(x, [h - _FLOOR for h in heights], width, bottom=_FLOOR, label=engine)
        labels = ["n/a" if "missing" in row else f"{row['time_ratio']:.2f}" for row in own]
        for bar, label, height in zip(bars, labels, heights, strict=True):
            top = height if height == height else _FLOOR  # NaN: no figure
            at = (bar.get_x() + width / 2, top)
            axes.annotate(label, at, (0, 2), textcoords="offset points", ha="center", fontsize=7)
    axes.axhline(1, color="grey", linewidth=0.8)
    for i, case in enumerate(cases):
        bar = next(row["time_bar"] for row in rows if row["case"] == case)
        axes.hlines(bar, i - 0.42, i + 0.42, colors="black", linestyles="dashed", linewidth=1)
    axes.set_yscale("log")
    axes.set_ylim(bottom=_FLOOR)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xticks(range(len(cases)), cases)
    axes.set_ylabel("time of a private step / plain step")
    axes.set_title("Cost of privacy by engine (dashed: the bar)", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", frameon=False, ncols=len(engines), fontsize=8)
    figure.savefig(path, dpi=150)


_FLOOR = 0.8
"""Where the bars stand: a logarithmic axis has no zero."""
