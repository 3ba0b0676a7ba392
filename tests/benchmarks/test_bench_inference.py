"""The benchmark of encrypted prediction: its link is slow as told, a missing peer is named."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.inference import cases, peers, run
from primia.demo.fleet import free_port


def test_the_link_is_not_faster_than_told() -> None:
    listen, target = free_port(), free_port()
    relay = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.inference.relay",
         str(listen), str(target), "80", "50"],
        stdout=subprocess.PIPE, text=True, cwd=run.ROOT,
    )  # fmt: skip
    data = bytes(range(256)) * 4000  # 1 MB: 0.1 s at 80 Mbit/s
    try:
        assert relay.stdout is not None
        relay.stdout.readline()
        with socket.create_server(("127.0.0.1", target)) as server:
            client = socket.create_connection(("127.0.0.1", listen))
            there, _ = server.accept()
            began = time.monotonic()
            threading.Thread(target=client.sendall, args=(data,)).start()
            received = b""
            while len(received) < len(data):
                received += there.recv(1 << 16)
            taken = time.monotonic() - began
        assert received == data
        assert taken > 0.15
    finally:
        relay.kill()
        relay.wait()


def test_a_peer_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(run.INTERPRETERS, "crypten", tmp_path / "python")
    assert "run make bench-inference" in run.ask_peer("crypten", tmp_path)["missing"]


def test_the_table_is_whole_at_80_columns() -> None:
    figures = {
        "seconds": 123.456, "bytes": 3.7654e9, "dealer_seconds": 12.345, "dealer_bytes": 2.7654e8,
        "peak_mb": 12345.0, "max_logit_error": 1.234e-5,
    }  # fmt: skip
    ours = [{"case": c.name, "system": "primia", "link": link, **figures}
            for c in cases.CASES for link in run.LINKS]  # fmt: skip
    theirs = [
        {"case": cases.CASES[-1].name, "system": "crypten", "link": "loopback", "missing": "-"}
    ]
    console = Console(width=80, file=io.StringIO())
    console.print(run.table([*ours, *theirs]))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "…" not in "".join(lines)
    rows = [line.split()[-7:] for line in lines if " at " in line]
    assert len(rows) == len(ours) - len(cases.CASES)
    assert all(r == ["123.46", "1.0", "3765.4", "12.35", "276.5", "12345", "1.2e-05"] for r in rows)
    assert {c.name for c in cases.CASES} <= {line.strip() for line in lines}


def test_peers_get_the_network_that_is_prepared(tmp_path: Path) -> None:
    """The peers' walk over the program, here with torch, answers as the network does."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    cases.make(cases.CASES[0], tmp_path)
    nodes, raw, film = peers.load(tmp_path)
    weights = {k: torch.from_numpy(v) for k, v in raw.items()}

    def step(node: peers.Raw, inputs: list[object]) -> object:
        op, x, name = node["op"], inputs[0], node["name"]
        match op["kind"]:
            case "conv2d":
                return functional.conv2d(
                    x, weights[f"{name}.weight"], weights[f"{name}.bias"],
                    op["stride"], op["padding"],
                )  # fmt: skip
            case "linear":
                return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
            case "relu":
                return torch.relu(x)
            case "flatten":
                return torch.flatten(x, 1)
            case kind:
                pool = {"max-pool2d": functional.max_pool2d, "avg-pool2d": functional.avg_pool2d}
                return pool[kind](x, op["kernel"], op["stride"], op["padding"])

    got = peers.forward(nodes, step, torch.from_numpy(film)).numpy()
    assert np.abs(got - np.load(tmp_path / "expected.npy")).max() < 1e-3
