"""`primia infer demo`: the three roles as processes on this machine, and plain answers beside."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from primia.demo.fleet import Daemon, call, free_port, stop_all
from primia.errors import StateError
from primia.infer.films import read
from primia.inference import model_file
from primia.inference.prepare import Wanted, prepare
from primia.inference.program import Program
from primia.inference.reference import fixed

CLASSES = ("normal", "bacterial", "viral")
START_S = 120.0


@dataclass(frozen=True)
class Shown:
    """What a demonstration found."""

    films: list[dict[str, Any]]  # film, encrypted, plain
    phases: dict[str, tuple[float, float, float]]  # seconds, MB sent, MB received

    @property
    def agree(self) -> int:
        """Films whose two answers are the same."""
        return sum(f["encrypted"] == f["plain"] for f in self.films)


def random_model(file: Path, size: int) -> None:
    """A ResNet-18 (with GroupNorm, as studies train) of random weights, prepared on drawn films."""
    from primia.imaging.synth import synthesise
    from primia.learning.models import build

    network = build("resnet18-gn", input_size=size, channels=1, classes=len(CLASSES), seed=0)
    films = synthesise(16, size=size, seed=1, classes=CLASSES).pixels[:16]
    made = prepare(network, Wanted(CLASSES, "class", 1), films, model_version=os.urandom(16).hex())
    file.write_bytes(model_file.pack(made.program, made.weights))


def trained_model(file: Path, export: Path, films: Path | None) -> None:
    """A model that a study exported, prepared on drawn films or on those at `films`."""
    source = ["--synthetic"] if films is None else ["--films", str(films)]
    call("primia", "infer", "prepare", str(export), "--out", str(file), *source)


def drawn_films(folder: Path, size: int, count: int) -> list[Path]:
    """Synthetic films as PNG files."""
    from primia.imaging.synth import synthesise

    folder.mkdir()
    pixels = synthesise(count, size=size, seed=7, classes=CLASSES).pixels[:count]
    paths = [folder / f"film-{number + 1}.png" for number in range(len(pixels))]
    for path, film in zip(paths, pixels, strict=True):
        Image.fromarray(film).save(path)
    return paths


def run(folder: Path, model: Path, films: Sequence[Path], console: Console) -> Shown:
    """Enrol, stock, ask, and answer in the clear; `folder` is new. Raises StateError."""
    ports = free_port(), free_port()
    daemons: list[Daemon] = []
    phases: dict[str, tuple[float, float, float]] = {}
    hospital = ("--state", str(folder / "hospital"))
    try:
        with console.status("enrolling: authority, invitations, certificates"):
            began = time.monotonic()
            _start(folder, model, ports, daemons)
            phases["starting and enrolling"] = (time.monotonic() - began, 0.0, 0.0)
        with console.status("dealing: correlated randomness for every film"):
            stocked = json.loads(
                call("primia", "infer", "stock", str(len(films)), *hospital, "--json")
            )
            phases |= _phases(
                stocked["costs"],
                {
                    "weights": "masked weights, once a version",
                    "material": "dealing, to the model owner",
                },
            )
        with console.status("asking, encrypted"):
            answer = json.loads(
                call("primia", "infer", "ask", *map(str, films), *hospital, "--json")
            )
            phases |= _phases(answer["costs"], {"online": "encrypted prediction"})
    finally:
        stop_all(daemons)
    with console.status("asking in the clear"):
        program, weights = model_file.read(model)
        began = time.monotonic()
        plain = fixed(program, weights, read(films, program)).argmax(axis=1)
        phases["the same in the clear"] = (time.monotonic() - began, 0.0, 0.0)
    return Shown(_beside(answer["films"], plain.tolist(), program), phases)


def tables(shown: Shown) -> tuple[Table, Table]:
    """Answers side by side, and what each phase took."""
    answers = Table("film", "encrypted", "in the clear", box=None, pad_edge=False)
    for film in shown.films:
        answers.add_row(film["film"], film["encrypted"] or "a tie", film["plain"])
    costs = Table("phase", "seconds", "MB sent", "MB received", box=None, pad_edge=False)
    for name, (seconds, sent, received) in shown.phases.items():
        moved = (f"{mb:.1f}" if mb else "-" for mb in (sent, received))
        costs.add_row(name, f"{seconds:.2f}", *moved)
    return answers, costs


def _start(folder: Path, model: Path, ports: tuple[int, int], daemons: list[Daemon]) -> None:
    model_at, dealer_at = (f"127.0.0.1:{port}" for port in ports)
    home = ("--state", str(folder / "model-owner"))
    call("primia", "infer", "init", "demo", *home)
    daemons.append(
        Daemon.start(
            "model owner", folder / "model-owner.log", "primia", "infer", "serve", str(model),
            "--dealer", dealer_at, "--listen", model_at, *home,
        )
    )  # fmt: skip
    _wait(daemons[-1])
    for role, name in (("dealer", "dealer"), ("data-owner", "hospital")):
        code = folder / f"{name}.code"
        call(
            "primia", "infer", "invite", role, name,
            "--address", model_at, "--code-file", str(code), *home,
        )  # fmt: skip
        call("primia", "infer", "enrol", str(code), "--state", str(folder / name))
        code.unlink()
    daemons.append(
        Daemon.start(
            "dealer", folder / "dealer.log", "primia", "infer", "dealer",
            "--listen", dealer_at, "--state", str(folder / "dealer"),
        )
    )  # fmt: skip
    _wait(daemons[-1])


def _wait(daemon: Daemon) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and daemon.process.poll() is None:
        if any(event.get("event") == "listening" for event in daemon.news()):
            return
        time.sleep(0.1)
    raise StateError(f"the {daemon.name} did not start:\n{daemon.last_lines()}")


def _phases(costs: dict[str, Any], names: dict[str, str]) -> dict[str, tuple[float, float, float]]:
    return {
        shown: (costs[key]["seconds"], costs[key]["sent"] / 1e6, costs[key]["received"] / 1e6)
        for key, shown in names.items()
    }


def _beside(
    films: list[dict[str, Any]], plain: list[int], program: Program
) -> list[dict[str, Any]]:
    return [
        {
            "film": Path(film["film"]).name,
            "encrypted": film["class"],
            "plain": program.classes[index],
        }
        for film, index in zip(films, plain, strict=True)
    ]
