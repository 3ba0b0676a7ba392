"""primia's side: three real daemons over mutual TLS, a data owner that asks, a link between."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.inference.loopback import peak_mb
from primia.demo.fleet import Daemon, call, free_port, stop_all

START_S = 120.0
Link = tuple[float, float] | None
"""Mbit/s and milliseconds, each way; None for the loopback itself."""


def measure(folder: Path, *, link: Link = None, times: int = 3) -> dict[str, Any]:
    """Median of `times` questions, the first left out where there are more.

    folder: as `cases.make` wrote it. The dealer's material is fetched beforehand and counted by
    itself, per film; it never goes over `link`.
    """
    with tempfile.TemporaryDirectory(prefix="primia-bench-") as name:
        place, daemons = Path(name), list[Daemon]()
        relay: subprocess.Popen[str] | None = None
        model, dealer, near = free_port(), free_port(), free_port()
        try:
            call("primia", "infer", "init", "bench", "--state", str(place / "model"))
            daemons.append(_daemon(place, "model", "serve", str(folder / "model"),
                                   "--dealer", f"127.0.0.1:{dealer}", port=model))  # fmt: skip
            if link is not None:
                relay = _relay(near, model, link)
            _enrol(place, "dealer", "dealer", model)
            daemons.append(_daemon(place, "dealer", "dealer", port=dealer))
            _enrol(place, "data-owner", "hospital", model if link is None else near)
            found = json.loads(
                subprocess.run(
                    [sys.executable, "-m", "benchmarks.inference.asking",
                     str(place / "hospital"), str(folder / "film.png"), str(times)],
                    check=True, capture_output=True, text=True,
                ).stdout
            )  # fmt: skip
            peaks = [found["peak_mb"], *(peak_mb(d.process.pid) for d in daemons)]
        finally:
            if relay is not None:
                relay.terminate()
            stop_all(daemons)
    asked = found["asked"][1:] or found["asked"]
    answer = {k: statistics.median(a[k] for a in asked) for k in ("seconds", "bytes", "steps")}
    return answer | {
        "dealer_seconds": found["dealt"]["seconds"],
        "dealer_bytes": found["dealt"]["bytes"],
        "peak_mb": max(peaks[:2]),
        "dealer_peak_mb": peaks[2],
        "logits": asked[-1]["logits"],
    }


def _daemon(place: Path, name: str, *arguments: str, port: int) -> Daemon:
    daemon = Daemon.start(
        name, place / f"{name}.log", "primia", "infer", *arguments,
        "--listen", f"127.0.0.1:{port}", "--state", str(place / name), "--log-json",
    )  # fmt: skip
    until = time.monotonic() + START_S
    while time.monotonic() < until and daemon.process.poll() is None:
        if any(event.get("event") == "listening" for event in daemon.news()):
            return daemon
        time.sleep(0.1)
    raise RuntimeError(f"the {name} did not start:\n{daemon.last_lines()}")


def _enrol(place: Path, role: str, name: str, port: int) -> None:
    code = str(place / f"{name}.code")
    home = ("--state", str(place / "model"))
    call("primia", "infer", "invite", role, name, "--address", f"127.0.0.1:{port}",
         "--code-file", code, *home)  # fmt: skip
    call("primia", "infer", "enrol", code, "--state", str(place / name))


def _relay(listen: int, target: int, link: tuple[float, float]) -> subprocess.Popen[str]:
    relay = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.inference.relay", *map(str, (listen, target, *link))],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert relay.stdout is not None
    relay.stdout.readline()
    return relay
