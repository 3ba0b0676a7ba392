"""The demonstration's last word: the result as tables."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from primia.report.record import from_json
from primia.report.terminal import rounds_table, sites_table, summary


def show(result: Path, console: Console) -> None:
    """Print rounds, sites and summary of RESULT/result.json."""
    record = from_json((result / "result.json").read_text(encoding="utf-8"))
    console.print(rounds_table(record))
    console.print(sites_table(record))
    console.print(summary(record))
