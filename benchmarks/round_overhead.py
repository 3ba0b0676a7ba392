"""What a round costs beside training: `make bench-rounds`.

    python -m benchmarks.round_overhead [--sites 10] [--rounds 10] [--repeat 3]

Measured are a real coordinator daemon and as many processes with the worker's own loop, over
gRPC and mutual TLS on the loopback, with real masks, books (SQLite FULL), ledgers and a model of
1 MB. The plan says `privacy: none`; the priced round adds what each hospital's accountant takes,
here on shared cores. Not measured are training and the start of torch, which these sites do not
load. A round lasts from the opening of its attempt to the opening of the next. CPU time (of the
coordinator and all sites, from the second round's opening on) is given beside it: on a machine
that does other things too, it is the steadier figure. `--logs FOLDER` keeps every process's log.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.rounds.study import found, plan_of
from primia.demo.fleet import Daemon, free_port, stop_all
from worker.home import enrol

RESULTS = Path(__file__).parent / "results" / "rounds.json"
BARS = {"round_s": 0.5, "cold_start_s": 3.0, "simulate_s": 5.0}
LONGEST_S = 180.0


def measure(sites: int, rounds: int, *, private: bool, logs: Path | None = None) -> dict[str, Any]:
    """One federation to its end: cold start, and seconds of each round and phase."""
    with tempfile.TemporaryDirectory(prefix="primia-bench-") as name:
        folder = Path(name)
        plan, port = plan_of(sites, rounds, private=private), free_port()
        codes = found(folder / "coordinator", plan, port)
        daemons: list[Daemon] = []
        try:
            began = time.monotonic()
            coordinator = Daemon.start(
                "coordinator", folder / "coordinator.log", "coordinator", "start",
                "--state", str(folder / "coordinator"), "--listen", f"127.0.0.1:{port}",
            )  # fmt: skip
            daemons.append(coordinator)
            _wait_for(coordinator, "listening", [])
            cold = time.monotonic() - began
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda s: enrol(folder / s, codes[s], None), plan.sites))
            daemons += [
                Daemon.start(s, folder / f"{s}.log", "benchmarks.rounds.site", str(folder / s))
                for s in plan.sites
            ]
            events: list[dict[str, Any]] = []
            for _ in range(2):
                _wait_for(coordinator, "round_opened", events, beside=daemons)
            before = [_cpu_s(d.process.pid) for d in daemons]
            _wait_for(coordinator, "study_over", events, beside=daemons)
            spent = [_cpu_s(d.process.pid) - b for d, b in zip(daemons, before, strict=True)]
            coordinator.process.wait(60)
        finally:
            stop_all(daemons)
            if logs is not None:
                shutil.copytree(folder, logs, dirs_exist_ok=True, ignore=_all_but_logs)
    found_ = _by_phase(events)
    # The closing evaluation counts as a round here: it costs the same.
    cpu = {"coordinator": spent[0] / rounds, "sites": sum(spent[1:]) / rounds}
    return {"cold_start_s": cold, "cpu_s": cpu, **found_}


def _all_but_logs(folder: str, names: list[str]) -> set[str]:
    return {n for n in names if (Path(folder) / n).is_dir() or not n.endswith(".log")}


def _cpu_s(pid: int) -> float:
    """User and system time of a process so far; 0 where there is no /proc, or it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait_for(
    daemon: Daemon, event: str, heard: list[dict[str, Any]], beside: Sequence[Daemon] = ()
) -> None:
    until = time.monotonic() + LONGEST_S
    while time.monotonic() < until and daemon.process.poll() is None:
        for found_ in daemon.news():
            heard.append(found_)
            if found_.get("event") == event:
                return
        for other in beside:
            if other.ended_badly():
                raise RuntimeError(f"{other.name} ended\n{other.last_lines(20)}")
        time.sleep(0.05)
    raise RuntimeError(f"{daemon.name}: no {event}\n{daemon.last_lines(20)}")


def _by_phase(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of each training round, and the mean of each phase, by the log's own times.

    The first round waits for the last process to come up, and does not count.
    """
    opened = [_at(e) for e in events if e["event"] == "round_opened"]
    rounds = [b - a for a, b in pairwise(opened[1:])]
    phases: dict[str, list[float]] = {}
    marks = [e for e in events if e["event"] in ("round_opened", "phase", "round_committed")]
    for one, next_ in pairwise(marks):
        name = {"round_opened": "opening", "round_committed": "between rounds"}.get(one["event"])
        if _at(one) >= opened[1]:
            phases.setdefault(name or one["phase"], []).append(_at(next_) - _at(one))
    return {
        "rounds_s": rounds,
        "phases_s": {k: sum(v) / max(1, len(rounds) + 1) for k, v in phases.items()},
    }


def _at(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["timestamp"]).timestamp()


def simulate() -> float:
    """16 sites that do nothing, 10 rounds, as a command from its start to its end."""
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "primia", "simulate", "--do-nothing", "--sites", "16",
         "--rounds", "10", "--json"],
        check=True, capture_output=True,
    )  # fmt: skip
    return time.monotonic() - began


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--logs", type=Path, help="keep the logs of the last run here")
    wanted = parser.parse_args()
    out = Console()
    runs = []
    for _ in range(wanted.repeat):
        runs.append(measure(wanted.sites, wanted.rounds, private=False, logs=wanted.logs))
        cpu = runs[-1]["cpu_s"]
        out.print(
            f"median round {statistics.median(runs[-1]['rounds_s']):.3f} s (CPU: coordinator "
            f"{cpu['coordinator']:.3f}, sites {cpu['sites']:.3f}), cold start "
            f"{runs[-1]['cold_start_s']:.2f} s, load {os.getloadavg()[0]:.1f}"
        )
    priced = measure(wanted.sites, wanted.rounds, private=True)
    simulated = [simulate() for _ in range(wanted.repeat)]
    report = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpus": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "system": platform.platform(),
            "load_1m": os.getloadavg()[0],
        },
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("primia", "grpcio", "numpy", "cryptography")},
        },
        "sites": wanted.sites,
        "rounds": wanted.rounds,
        "runs": runs,
        "round_s": statistics.median([s for r in runs for s in r["rounds_s"]]),
        "round_cpu_s": statistics.median(sum(r["cpu_s"].values()) for r in runs),
        "round_range_s": _range([statistics.median(r["rounds_s"]) for r in runs]),
        "cold_start_s": statistics.median(r["cold_start_s"] for r in runs),
        "cold_start_range_s": _range([r["cold_start_s"] for r in runs]),
        "simulate_s": statistics.median(simulated),
        "simulate_range_s": _range(simulated),
        "priced_round_s": statistics.median(priced["rounds_s"]),
        "bars": BARS,
    }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    out.print(_table(report))
    out.print(_phases(runs))


def _range(values: list[float]) -> list[float]:
    return [min(values), max(values)]


def _table(report: dict[str, Any]) -> Table:
    table = Table(title=f"{report['sites']} sites that do nothing, 1 MB model, loopback, TLS")
    for name in ("what", "median", "range", "bar", "median / bar"):
        table.add_column(name)
    rows = {
        "round": "round",
        "cold_start": "coordinator cold start",
        "simulate": "simulate 16 sites x 10 rounds",
    }
    for key, name in rows.items():
        value, bar = report[f"{key}_s"], report["bars"][f"{key}_s"]
        low, high = report[f"{key}_range_s"]
        table.add_row(
            name, f"{value:.3f} s", f"{low:.3f} to {high:.3f}", f"{bar:g} s", f"{value / bar:.2f}"
        )
    table.add_row("round, CPU of all processes", f"{report['round_cpu_s']:.3f} s", "", "-", "-")
    table.add_row(
        "round, priced by each site's accountant", f"{report['priced_round_s']:.3f} s", "", "-", "-"
    )
    return table


def _phases(runs: list[dict[str, Any]]) -> Table:
    table = Table(title="mean seconds by phase, each run")
    table.add_column("phase")
    for number in range(1, len(runs) + 1):
        table.add_column(f"run {number}", justify="right")
    for phase in runs[0]["phases_s"]:
        table.add_row(phase, *(f"{r['phases_s'].get(phase, 0):.3f}" for r in runs))
    return table


if __name__ == "__main__":
    main()
