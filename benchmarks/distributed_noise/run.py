"""AUC with noise of each site, noise added together, and none, at the same ε.

    python -m benchmarks.distributed_noise.run [--sites 3,10] [--epsilons 8,2] [--repeats N]

PneumoniaMNIST (PRIMIA_DATA, default ../shared/data), divided by patient. Every mode may choose from
the same number of settings; the choice is made on validation films, the figure is from test films.
(Such a choice looks at private data, and its own leak is not in ε. It is the same for all modes.)
Sums are made by an ideal aggregator, which is not secure; the masked one gives the same integers.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console

from benchmarks.distributed_noise.report import chart, table
from benchmarks.distributed_noise.study import DELTA, RATE, Data, Setting, load, make_plan, run
from primia.settle import price_plan

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"

SETTINGS = {
    "none": (Setting(60, 0.05), Setting(60, 0.1), Setting(120, 0.05)),
    "site": (Setting(30, 0.3), Setting(60, 0.1), Setting(60, 0.3)),
    "distributed": (Setting(30, 0.3), Setting(60, 0.1), Setting(60, 0.3)),
}
"""What each mode may choose from."""

Row = dict[str, Any]


def measure(mode: str, epsilon: float | None, data: Data, repeats: int) -> Row:
    """The best setting of a mode by validation AUC, and its test AUC over `repeats` runs."""
    started, tried = time.perf_counter(), []
    per_site = sum(films.patient_count for films in data.sites) // len(data.sites)
    for setting in SETTINGS[mode]:
        plan = make_plan(mode, len(data.sites), epsilon, setting, per_site)
        runs = [run(plan, data) for _ in range(repeats)]
        tried.append(
            {
                "steps": setting.steps,
                "learning_rate": setting.learning_rate,
                "epsilon": None if epsilon is None else price_plan(plan).epsilon,
                "noise_multiplier": None if epsilon is None else price_plan(plan).noise_multiplier,
                "validation_auc": [r["validation"] for r in runs],
                "test_auc": [r["test"] for r in runs],
            }
        )
    best = max(tried, key=lambda t: float(np.mean(t["validation_auc"])))
    return {
        "mode": mode,
        "sites": len(data.sites),
        "target_epsilon": epsilon,
        "test_auc": float(np.mean(best["test_auc"])),
        "chosen": best,
        "tried": tried,
        "seconds": round(time.perf_counter() - started, 1),
    }


def machine() -> Row:
    """Where and with what the figures were made."""
    packages = ("primia", "torch", "numpy", "dp-accounting")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": platform.processor() or platform.machine(),
        "threads": 1,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
    }


def main(
    sites: Annotated[str, typer.Option(help="Numbers of hospitals, comma-separated.")] = "3,10",
    epsilons: Annotated[str, typer.Option(help="Targets, comma-separated.")] = "8,2",
    repeats: Annotated[int, typer.Option(help="Runs of each setting.")] = 1,
    results: Annotated[Path, typer.Option(help="Folder for JSON and chart.")] = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not the table.")] = False,
) -> None:
    """Train every mode at every ε and number of sites; write a JSON file and a chart."""
    root = Path(os.environ.get("PRIMIA_DATA", "../shared/data"))
    if not (root / "pneumoniamnist").is_dir():
        raise typer.BadParameter(f"{root}: holds no pneumoniamnist; set PRIMIA_DATA")
    torch.set_num_threads(1)
    progress, rows = Console(stderr=True), []
    for number in (int(n) for n in sites.split(",")):
        data = load(root, number)
        targets = [float(e) for e in epsilons.split(",")]
        for mode, epsilon in [("none", None)] + [
            (mode, e) for e in targets for mode in ("site", "distributed")
        ]:
            row = measure(mode, epsilon, data, repeats)
            rows.append(row)
            progress.print(
                f"{number} sites, {mode}, epsilon {epsilon}: {row['test_auc']:.4f} "
                f"({row['seconds']} s)",
                style="dim",
                highlight=False,
            )
    result = {
        "machine": machine(),
        "aggregator": "ideal: plain sums of the encoded vectors, not secure",
        "delta": DELTA,
        "sampling_rate": RATE,
        "repeats": repeats,
        "rows": rows,
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "distributed-noise.json").write_text(json.dumps(result, indent=2) + "\n")
    chart(rows, results / "distributed-noise.png")
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        table(result, Console())


if __name__ == "__main__":
    typer.run(main)
