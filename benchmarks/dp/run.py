"""The whole comparison: every engine on every case, as a table, a JSON file and a chart.

    python -m benchmarks.dp.run [--cases A,B] [--engines A,B] [--budget SECONDS] [--json]

Time is the median over pairs of a private and a plain step of the ratio of their CPU times, one
thread (on a GPU: of the times between events). Memory is the peak resident size of a process that
takes private steps only over that of one that takes plain steps only; in brackets the same
without what libraries, model and data hold before the first step. Clip, noise and optimiser are
inside the private step, the optimiser inside the plain one. The engine `plain` compares plain
training with itself and shows how far the figures can be trusted.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.dp.cases import CASES
from benchmarks.dp.engines import ENGINES
from benchmarks.dp.report import chart, table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
GIB = 1 << 30

NEEDS_GIB = {
    ("opacus-hooks", "resnet18-28-b256"): 20,  # 11.4 GB of gradients, and copies of the largest
    ("opacus-ghost", "resnet18-28-b256"): 12,
}
"""Free memory without which an engine is not started, lest the kernel ends something else."""

Row = dict[str, Any]


OURS = {"plain", "primia"}


def measure(engine: str, case: str, *, baseline: Row, device: str, budget_s: float) -> Row:
    """One row of the result; with `missing` and a reason where there is no figure."""
    row: Row = {"case": case, "engine": engine}
    needed, free = NEEDS_GIB.get((engine, case), 0), available_gib()
    if device == "cpu" and free < needed:
        return row | {"missing": f"needs {needed} GiB of memory, {free:.0f} GiB are free"}
    row |= worker("time", engine, case, device=device, budget_s=budget_s)
    if "missing" in row:
        return row
    memory = worker("memory", engine, case, device=device, budget_s=budget_s)
    if "missing" in memory:
        return row | {"memory_missing": memory["missing"]}
    return row | memory | memory_ratios(memory, baseline)


def memory_ratios(memory: Row, baseline: Row) -> Row:
    """Peak over peak, and the same after subtracting what each held before its first step."""
    if "missing" in baseline:
        return {"memory_missing": f"plain training: {baseline['missing']}"}
    own, floor = (m["peak_bytes"] - m["held_bytes"] for m in (memory, baseline))
    return {
        "memory_ratio": memory["peak_bytes"] / baseline["peak_bytes"],
        "memory_ratio_net": own / max(floor, 1),
    }


def worker(what: str, engine: str, case: str, *, device: str, budget_s: float) -> Row:
    """Run one measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.dp.worker", what, "--case", case]
    command += ["--engine", engine, "--device", device, "--budget", str(budget_s)]
    limit_s = 900 + 4 * budget_s  # the check and the first steps come on top of the budget
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | one_thread,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"missing": f"no result after {limit_s:.0f} s"}
    if done.returncode < 0:
        return {"missing": f"ended by signal {-done.returncode} (9: most likely out of memory)"}
    if done.returncode > 0:
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        return {"missing": f"failed: {last}", "failed": True}
    result: Row = json.loads(done.stdout)
    return result


def available_gib() -> float:
    """Memory that can be had without swapping, in GiB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024 / GIB
    return 0.0


def machine(device: str) -> Row:
    """Where and with what the figures were made."""
    packages = ("primia", "torch", "torchvision", "numpy", "opacus", "fastDP")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found: Row = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device,
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "threads": 1,
        "versions": versions,
    }
    if device == "cuda":
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found


def chosen(names: str, known: dict[str, Any], option: str) -> list[str]:
    """The names of a comma-separated list, or all; a wrong one ends with the right ones."""
    picked = [name.strip() for name in names.split(",") if name.strip()] or list(known)
    for name in picked:
        if name not in known:
            raise typer.BadParameter(f"{name!r}: choose from {', '.join(known)}", param_hint=option)
    return picked


def main(
    cases: Annotated[str, typer.Option(help="Comma-separated; default: all.")] = "",
    engines: Annotated[str, typer.Option(help="Comma-separated; default: all.")] = "",
    budget: Annotated[float, typer.Option(help="Seconds of pairs per engine and case.")] = 60.0,
    peer_budget: Annotated[float, typer.Option(help="The same for the peers.")] = 20.0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    results: Annotated[Path, typer.Option(help="Folder for dp.json and dp.png.")] = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not the table.")] = False,
) -> None:
    """Compare ways to take a private step. Exit status 1 when primia's own engine fails."""
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{device!r}: choose cpu or cuda", param_hint="--device")
    picked_cases = chosen(cases, CASES, "--cases")
    picked_engines = chosen(engines, ENGINES, "--engines")
    progress = Console(stderr=True)
    rows: list[Row] = []
    for case in picked_cases:
        baseline = worker("memory", "plain", case, device=device, budget_s=budget)
        for engine in picked_engines:
            progress.print(f"{case}: {engine}", style="dim", highlight=False)
            seconds = budget if engine in OURS else peer_budget
            row = measure(engine, case, baseline=baseline, device=device, budget_s=seconds)
            bars = {"time_bar": CASES[case].time_bar, "memory_bar": CASES[case].memory_bar}
            rows.append(row | bars)
    result = {
        "machine": machine(device),
        "budget_s": budget,
        "peer_budget_s": peer_budget,
        "rows": rows,
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "dp.json").write_text(json.dumps(result, indent=2) + "\n")
    chart(rows, results / "dp.png")
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        table(result, Console())
    if any(row["engine"] == "primia" and row.get("failed") for row in rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
