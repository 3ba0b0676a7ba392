"""`primia-worker budget`: what the ledger holds, in figures and for people."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from primia.config import load_site
from worker.books import open_ledger
from worker.home import load


def budget_json(folder: Path, config_file: Path) -> dict[str, Any]:
    """The ledger in figures. ε is null after a release without privacy: there is no bound."""
    config = load_site(config_file)
    caps = config.caps
    load(folder)
    with open_ledger(folder, config) as ledger:
        rows = ledger.rows()
        spent = ledger.spent(caps.max_delta)
    return {
        "epsilon_spent": spent if spent != float("inf") else None,
        "epsilon_cap": caps.max_epsilon,
        "delta": caps.max_delta,
        "charges": [
            {
                "number": r.number,
                "study": r.study,
                "plan": r.plan,
                "round": r.round,
                "attempt": r.attempt,
                "mechanism": None if r.mechanism is None else asdict(r.mechanism),
                "time": r.time,
            }
            for r in rows
        ],
    }


def budget_table(found: dict[str, Any]) -> Table:
    """The ledger for people."""
    spent = found["epsilon_spent"]
    shown = "no bound (a release without privacy)" if spent is None else f"{spent:.3f}"
    table = Table(title=f"ε spent {shown} of {found['epsilon_cap']:g} at δ = {found['delta']:g}")
    for column in ("charge", "time", "plan", "round", "sampling", "noise", "steps"):
        table.add_column(column, justify="right")
    for row in found["charges"]:
        m = row["mechanism"]
        figures = (
            ("-", "-", "-")
            if m is None
            else (f"{m['sampling_rate']:g}", f"{m['noise_multiplier']:g}", str(m["steps"]))
        )
        table.add_row(
            str(row["number"]), row["time"], row["plan"][:12], str(row["round"]), *figures
        )
    return table
