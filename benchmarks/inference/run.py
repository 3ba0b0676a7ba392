"""Encrypted prediction beside CrypTen and SPU, of the same film: `make bench-inference`.

    python -m benchmarks.inference.run [--cases resnet18-fold-28] [--peers crypten,semi2k,aby3]

Online is the forward pass alone: what a dealer deals beforehand is a column of its own for primia,
and nothing for CrypTen and SEMI2K, whose default dealer is the first party (insecure, and free of a
dealer's traffic). Bytes are what the loopback device carried, both ways, all parties; as root the
benchmark puts itself into a network namespace, where nothing else is carried. primia runs as three
daemons over mutual TLS, peers over plain TCP, each party a process. On the slower links runs primia
alone, through a relay (`relay.py`): the peers' own connections cannot be led through one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.inference import ours
from benchmarks.inference.cases import CASES, make

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "inference.json"
INTERPRETERS = {
    "crypten": ROOT / ".venv-bench-crypten" / "bin" / "python",
    "semi2k": ROOT / ".venv-bench-spu" / "bin" / "python",
    "aby3": ROOT / ".venv-bench-spu" / "bin" / "python",
}
LINKS: dict[str, ours.Link] = {
    "loopback": None,
    "1 Gbit/s, 0.5 ms": (1000, 0.5),
    "100 Mbit/s, 20 ms": (100, 20),
}
LONGEST_S = 900
ALONE = "PRIMIA_BENCH_ALONE"
MODULE = "benchmarks.inference.run"
OURS = ("primia", "loopback")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", default=",".join(c.name for c in CASES))
    parser.add_argument("--peers", default=",".join(INTERPRETERS))
    arguments = parser.parse_args()
    _alone()
    cases = [c for c in CASES if c.name in arguments.cases.split(",")]
    peers = [p for p in arguments.peers.split(",") if p]
    console = Console()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="primia-bench-") as name:
        for case in cases:
            folder = Path(name) / case.name
            console.print(f"{case.name}: preparing")
            make(case, folder)
            exact = np.load(folder / "expected.npy", allow_pickle=False)
            for link, numbers in LINKS.items():
                found = ours.measure(folder, link=numbers)
                if numbers is not None:
                    del found["bytes"], found["dealer_bytes"]  # counted twice, with the relay
                rows.append({"case": case.name, "system": "primia", "link": link, **found})
                _finish(rows[-1], exact, console)
            for peer in peers:
                found = ask_peer(peer, folder)
                rows.append({"case": case.name, "system": peer, "link": "loopback", **found})
                _finish(rows[-1], exact, console)
            _write(rows)
    console.print(table(rows))


def ask_peer(peer: str, folder: Path) -> dict[str, Any]:
    """The peer's answer, or why there is none."""
    python = INTERPRETERS[peer]
    if not python.exists():
        return {"missing": f"no interpreter at {python}; run make bench-inference"}
    command = [str(python), "-m", "benchmarks.inference.peers", peer, str(folder)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"missing": f"no answer within {LONGEST_S} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return {"missing": (done.stderr.strip().splitlines() or ["it died"])[-1][:200]}
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def table(rows: list[dict[str, Any]]) -> Table:
    """80 columns wide, a block for each case."""
    shown = Table(box=None, padding=(0, 1, 0, 0))
    shown.add_column("")
    for column in (
        "online\ns", "times\nprimia", "MB", "dealer\ns", "dealer\nMB", "peak\nMB", "error",
    ):  # fmt: skip
        shown.add_column(column, justify="right", no_wrap=True)
    base = {r["case"]: r["seconds"] for r in rows if (r["system"], r["link"]) == OURS}
    case = None
    for r in rows:
        if r["case"] != case:
            case = r["case"]
            shown.add_row(f"[bold]{case}[/]")
        system = r["system"] if r["link"] == "loopback" else f"{r['system']} at {r['link']}"
        if "missing" in r:
            shown.add_row(system, "-")
            continue
        times = f"{r['seconds'] / base[r['case']]:.1f}"
        cells = [f"{r['seconds']:.2f}", times, _mb(r.get("bytes"))]
        dealer = r.get("dealer_seconds")
        cells += ["" if dealer is None else f"{dealer:.2f}", _mb(r.get("dealer_bytes"))]
        shown.add_row(system, *cells, f"{r['peak_mb']:.0f}", f"{r['max_logit_error']:.1e}")
    return shown


def _mb(count: float | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f}"


def _finish(row: dict[str, Any], exact: Any, console: Console) -> None:
    if "missing" in row:
        console.print(f"  {row['system']}: {row['missing']}")
        return
    row["max_logit_error"] = float(np.abs(np.array(row.pop("logits")) - exact).max())
    console.print(f"  {row['system']}, {row['link']}: {row['seconds']:.2f} s")


def _alone() -> None:
    """Run again in a network namespace of its own, where that is allowed."""
    if os.environ.get(ALONE) or os.geteuid() or not shutil.which("unshare"):
        return
    inside = 'ip link set lo up && exec "$@"'
    command = ["unshare", "-n", "sh", "-c", inside, "sh", sys.executable, "-m", MODULE]
    os.execvpe("unshare", [*command, *sys.argv[1:]], os.environ | {ALONE: "1"})  # noqa: S606


def _write(rows: list[dict[str, Any]]) -> None:
    machine = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "primia": version("primia"),
        "peers": {"crypten": "0.4.1", "spu": "0.9.5"},
        "loopback_alone": bool(os.environ.get(ALONE)),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    RESULTS.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
