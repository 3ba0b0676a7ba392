"""What secure aggregation costs: every figure as a ratio within one run, beside others' work.

    python -m benchmarks.secagg.run [--length D] [--repeats N] [--peers PYTHON] [--json]

What belongs together runs in turns, and the best of the turns counts: on a shared machine that is
the one which other programs disturbed least. Medians stand in the JSON file. Times are CPU times
of one thread, except where two threads or two processes work together (unmasking of 570 masks,
uploads): there the clock on the wall counts, and a busy machine shows. `keystream` is raw
AES-256-CTR into one small buffer, as many bytes as the masks of that line have.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from benchmarks.secagg import memory, vectors
from benchmarks.secagg.cohort import Cohort
from benchmarks.secagg.peers import Peers
from benchmarks.secagg.report import chart, table
from benchmarks.secagg.rounds import Game
from benchmarks.secagg.timing import Timing, in_turns
from benchmarks.secagg.transport import WAYS, Receiver
from primia.wire.channel import CHUNK

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PEERS = ROOT / ".venv-bench-secagg" / "bin" / "python"

Row = dict[str, Any]


def row(section: str, name: str, ratio: float, unit: str, **more: Any) -> Row:
    """One line. at_most, at_least: the bar; unit: what the ratio is of."""
    return {"section": section, "name": name, "ratio": ratio, "unit": unit, **more}


def timed(section: str, name: str, found: Timing, base: Timing, unit: str, **more: Any) -> Row:
    """One line of a time over another; `inverse=True`: of a speed over another."""
    inverse = more.pop("inverse", False)
    best, median = found.best / base.best, found.median / base.median
    return row(
        section,
        name,
        1 / best if inverse else best,
        unit,
        median_ratio=1 / median if inverse else median,
        best_s=found.best,
        median_s=found.median,
        **more,
    )


def streams(length: int, count: int) -> Callable[[], None]:
    """Raw key streams as long as `count` masks."""
    return lambda: vectors.key_stream(4 * length * count)


def limits(length: int, repeats: int) -> list[Row]:
    """What this machine can do at best."""
    found = in_turns(vectors.limits(length), repeats=repeats)
    base = found["aes-256-ctr"]
    return [timed("limits", n, t, base, "keystream") for n, t in found.items()]


def masks(length: int, repeats: int) -> list[Row]:
    """Masks of a site's vector, keys derived on the way, one thread."""
    bars = {2: 1.7, 10: 1.5, 50: 1.5}
    contribution = vectors.contribution(length, 32)
    tasks: dict[str, Callable[[], object]] = {}
    for n in bars:
        site = vectors.Site(n, contribution)
        tasks |= {f"raw {n}": streams(length, n + 1), f"mask {n}": site.mask}
    found = in_turns(tasks, repeats=repeats)
    return [
        timed(
            "masks",
            f"{n} peers and self",
            found[f"mask {n}"],
            found[f"raw {n}"],
            "keystream",
            at_most=bar,
        )
        for n, bar in bars.items()
    ]


def client_stage(length: int, repeats: int, peers: Peers) -> list[Row]:
    """Quantise, mask for 10 peers and self, and pack; the same work by others."""
    ours = {bits: vectors.Site(10, vectors.contribution(length, bits)) for bits in (24, 32)}
    tasks: dict[str, Callable[[], object]] = {"raw": streams(length, 11)}
    tasks |= {f"primia, {bits} bits": site.upload for bits, site in ours.items()}
    section, name = "quantise + mask + pack, 10 peers", "Flower SecAgg+ stage 2"
    flower = peers.ask("flower-mask", length=length, peers=10)
    if "missing" not in flower:
        tasks[name] = lambda: peers.ask("flower-mask", length=length, peers=10)["seconds"]
    found = in_turns(tasks, repeats=repeats)
    raw = found.pop("raw")
    rows = [
        timed(section, n, t, raw, "keystream", at_most=2.2 if "primia" in n else None)
        for n, t in found.items()
    ]
    if name in found:
        ours_24 = found["primia, 24 bits"]
        rows.append(
            timed(section, "  over primia, 24 bits", found[name], ours_24, "primia", at_least=8)
        )
    else:
        rows.append({"section": section, "name": name, "missing": flower["missing"]})
    ckks = peers.ask("ckks", length=length, peers=10)
    name = "CKKS as NVFLARE sets it (TenSEAL)"
    if "missing" in ckks:
        rows.append({"section": section, "name": name, "missing": ckks["missing"]})
    else:
        once = Timing((ckks["seconds"],))
        rows.append(timed(section, name, once, raw, "keystream"))
    return rows + [
        row("bytes up", n, answer["bytes"] / (4 * length), "float32, vector alone")
        for n, answer in (("Flower SecAgg+", flower), ("CKKS", ckks))
        if "missing" not in answer
    ]


def small_steps(repeats: int, peers: Peers) -> list[Row]:
    """Agree with 99 neighbours and share both secrets."""
    section, name = "agree + share, n = 100", "Flower SecAgg+ stage 1"
    tasks: dict[str, Callable[[], object]] = {"primia": Cohort(100).agree_and_share}
    flower = peers.ask("flower-share", length=1, peers=99)
    if "missing" not in flower:
        tasks[name] = lambda: peers.ask("flower-share", length=1, peers=99)["seconds"]
    found = in_turns(tasks, repeats=max(5, repeats))
    millisecond = Timing((1e-3,))
    rows = [timed(section, "primia", found["primia"], millisecond, "ms", at_most=10)]
    if name in found:
        return [*rows, timed(section, name, found[name], millisecond, "ms")]
    return [*rows, {"section": section, "name": name, "missing": flower["missing"]}]


def unmasking(length: int, repeats: int) -> list[Row]:
    """Rebuild the secrets and take the masks off the sum."""
    layout = vectors.contribution(length, 24).layout
    total = np.zeros(layout.length, np.uint32)
    rows = []
    for n, lost, threads, bar in ((10, 3, 1, 1.5), (100, 5, 2, 0.8)):
        cohort = Cohort(n, lost)
        revealed = cohort.reveal()
        tasks: dict[str, Callable[[], object]] = {
            "raw": streams(length, cohort.masks),
            "open": partial(cohort.open, total, layout, revealed, threads),
        }
        clock = time.process_time if threads == 1 else time.perf_counter
        # 570 masks take seconds, long enough for an average of their own.
        turns = {"repeats": repeats, "warm": 1} if n == 10 else {"repeats": 3, "warm": 0}
        found = in_turns(tasks, clock=clock, **turns)
        name = f"n = {n}, {lost} lost: {cohort.masks} masks, {threads} thread" + "s" * (threads > 1)
        rows.append(timed("unmask", name, found["open"], found["raw"], "keystream", at_most=bar))
    return rows


def transport(length: int, repeats: int) -> list[Row]:
    """An upload over mutual TLS by several ways; what its parts take alone; bytes on the wire."""
    section, data = "upload over mutual TLS: speed", os.urandom(4 * length)
    bars = {"grpc-stream": 0.7}
    with tempfile.TemporaryDirectory() as name, Receiver(Path(name)) as receiver:
        found = in_turns(receiver.ways(data), repeats=2 * repeats, clock=time.perf_counter)
        bare, same_work = found["tls-socket"], found["tls-socket-spool"]
        rows = [
            timed(
                section, what, found[way], bare, "TLS socket", inverse=True, at_least=bars.get(way)
            )
            for way, what in WAYS.items()
        ]
        rows.append(
            timed(
                section,
                "the product, over the socket with the same work",
                found["primia"],
                same_work,
                "that",
                inverse=True,
                at_least=0.7,
            )
        )
        parts = in_turns(
            upload_parts(data, Path(name) / "part"), repeats=repeats, clock=time.perf_counter
        )
        section = "an upload's parts: time"
        rows += [timed(section, what, t, bare, "TLS socket") for what, t in parts.items()]
        return rows + [bytes_up(receiver, length, bits, bar) for bits, bar in WIRE_BARS.items()]


def upload_parts(data: bytes, path: Path) -> dict[str, Callable[[], object]]:
    """What comes on top of the stream, and what is no longer done, each alone."""

    def spool(*, sync: bool) -> None:
        with path.open("wb") as file:
            for start in range(0, len(data), CHUNK):
                file.write(memoryview(data)[start : start + CHUNK])
            if sync:
                file.flush()
                os.fsync(file.fileno())
        path.unlink()

    return {
        "SHA-256, done at each end": lambda: hashlib.sha256(data),
        "spool file, written and removed": lambda: spool(sync=False),
        "the same with fsync (not done)": lambda: spool(sync=True),
    }


WIRE_BARS = {32: 1.01, 24: 0.76}


def bytes_up(receiver: Receiver, length: int, bits: int, bar: float) -> Row:
    """All that a site of ten sends in a round, counted below TLS."""
    packed = bytes(vectors.contribution(length, bits).layout.wire_bytes)
    game = Game(10, vectors.contribution(1, bits).layout)
    game.play()
    ratio = receiver.bytes_up(packed, game.sent) / (4 * length)
    unit = "float32, all on the wire"
    return row("bytes up", f"primia, {bits} bits, n = 10", ratio, unit, at_most=bar)


def coordinator_memory(length: int) -> list[Row]:
    """Peak of the coordinator's process while sites upload."""
    bar = 3 + memory.AT_ONCE
    return [
        row(
            "coordinator's peak memory",
            f"n = {n}, {memory.AT_ONCE if n > 3 else 3} uploads at once",
            memory.peak(n, length, 24),
            "32-bit vectors",
            at_most=min(bar, 3 + n),
        )
        for n in (3, 10, 20)
    ]


def machine(peers: Peers) -> Row:
    """Where and with what the figures were made."""
    packages = ("primia", "numpy", "cryptography", "grpcio", "protobuf")
    versions = {name: importlib.metadata.version(name) for name in packages}
    found = peers.ask("versions")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), **versions}
        | ({} if "missing" in found else found),
    }


def measure(length: int, repeats: int, peers: Peers, say: Callable[[str], None]) -> list[Row]:
    """All lines."""
    parts: Sequence[tuple[str, Callable[[], list[Row]]]] = (
        ("limits", lambda: limits(length, repeats)),
        ("masks", lambda: masks(length, repeats)),
        ("client stage", lambda: client_stage(length, repeats, peers)),
        ("keys and shares", lambda: small_steps(repeats, peers)),
        ("unmasking", lambda: unmasking(length, repeats)),
        ("upload", lambda: transport(length, repeats)),
        ("memory", lambda: coordinator_memory(length)),
    )
    rows = []
    for name, part in parts:
        say(name)
        rows += part()
    return rows


def main(
    length: Annotated[int, typer.Option(help="Coordinates of the update.")] = 11_000_000,
    repeats: Annotated[int, typer.Option(help="Turns of each comparison.")] = 5,
    peers: Annotated[Path, typer.Option(help="Python that has peers.txt installed.")] = PEERS,
    results: Annotated[Path, typer.Option(help="Folder for secagg.json and .png.")] = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not the table.")] = False,
) -> None:
    """Measure secure aggregation against its cipher, its transport and others' work."""
    progress = Console(stderr=True)
    with Peers(peers) as others:
        rows = measure(length, repeats, others, lambda text: progress.print(text, style="dim"))
        where = machine(others)
    result = {"machine": where, "length": length, "repeats": repeats, "rows": rows}
    results.mkdir(parents=True, exist_ok=True)
    (results / "secagg.json").write_text(json.dumps(result, indent=2) + "\n")
    chart(rows, results / "secagg.png")
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        table(result, Console())


if __name__ == "__main__":
    typer.run(main)
