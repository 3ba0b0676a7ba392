"""Does the protocol answer as the network does? Two trained networks, 500 films each.

Run: make inference-films [BENCH_ARGS="--small-cnn out/model-best.safetensors --films 250"]. Both
parties and the dealer are in this process; what they compute is what they compute over a wire. Half
of the films is synthetic, half Kermany's (PRIMIA_DATA, or ../shared/data); none was trained or
calibrated on, and one half comes from another source than what was. The network in float64 is the
judge. A class that differs is a tie when the network's own margin there is under TIE, twice the
error that a logit may have. The figures go to benchmarks/results/inference-films.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.inference.weak import cost, logits
from primia.errors import ConfigError
from primia.imaging.synth import CLASSES, synthesise
from primia.inference.correlations import Corrections
from primia.inference.dealing import deal
from primia.inference.encoding import encode
from primia.inference.messages import Prediction, Step
from primia.inference.ops.rectify import Profile
from primia.inference.parties import data_party, model_party
from primia.inference.prepare import Wanted, prepare
from primia.inference.program import Program, Weights
from primia.inference.trained import read_export
from primia.inference.weighted import mask_weights
from primia.learning.local import to_input
from primia.learning.models import build

MAX_ERROR = 5e-3
TIE = 2 * MAX_ERROR
CALIBRATION = 64
RUNS: tuple[tuple[Profile, str], ...] = (("lan", "logits"), ("lan", "class"), ("wan", "logits"))
ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("PRIMIA_DATA", ROOT / "../shared/data"))
RESULT = ROOT / "benchmarks" / "results" / "inference-films.json"


@dataclass(frozen=True)
class Trained:
    """home: films like those it was trained on, for calibration; they are not asked."""

    name: str
    origin: str
    model: nn.Module
    home: Any
    asked: dict[str, Any]  # by source: uint8 (n, size, size)
    labels: dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small-cnn", type=Path, help="a study's exported model; else one is made")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--films", type=int, default=250, help="of each source")
    parser.add_argument("--batch", type=int, default=25, help="films in a session")
    parser.add_argument("--steps", type=int, default=100, help="of 32 films, to train")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True)) as progress:
        for name in args.networks.split(","):
            rows.append(check(NETWORKS[name](args, progress), args.batch, progress))
    write(rows)
    console = Console()
    for shown in (table(rows), weak_table(rows)):
        console.print(shown)
    return 0 if all(good(run) for row in rows for run in row["runs"]) else 1


def small_cnn(args: argparse.Namespace, progress: Progress) -> Trained:
    """A study's small-cnn, or one trained on synthetic films."""
    size = 48
    if args.small_cnn is None:
        model = build("small-cnn", input_size=size, channels=1, classes=3, seed=1)
    else:
        model, terms = read_export(args.small_cnn)
        size = terms.input_size
        if terms.name != "small-cnn" or terms.channels != 1 or terms.classes != CLASSES:
            raise ConfigError(
                f"{args.small_cnn}: not a small-cnn for grey films and {CLASSES}; leave it out"
            )
    home = synthesise(1000, size=size, seed=2)
    if args.small_cnn is None:
        train(model, home.pixels, home.labels, 10 * args.steps, progress, "small-cnn")
    origin = "a study's export" if args.small_cnn else f"{10 * args.steps} plain steps, synthetic"
    films, labels = asked(args.films, size, held_out(args.films)[1])
    return Trained("small-cnn", origin, model, home.pixels[:CALIBRATION], films, labels)


def resnet(args: argparse.Namespace, progress: Progress) -> Trained:
    """resnet18-gn, trained on Kermany's films of other patients than those it will be asked."""
    learned, others = held_out(args.films)
    model = build("resnet18-gn", input_size=64, channels=1, classes=3, seed=1)
    train(model, *learned, args.steps, progress, "resnet18-gn")
    films, labels = asked(args.films, 64, others)
    origin = f"{args.steps} plain steps, Kermany"
    return Trained("resnet18-gn", origin, model, learned[0][:CALIBRATION], films, labels)


NETWORKS = {"small-cnn": small_cnn, "resnet18-gn": resnet}


def held_out(count: int) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Kermany's films and labels, shuffled: to learn from, and `count` of other patients."""
    with np.load(DATA / "kermany_cxr" / "kermany_64_dev.npz", allow_pickle=False) as file:
        pixels, labels, patients = file["images"], file["labels"], file["patient_ids"]
    order = np.random.default_rng(0).permutation(len(pixels))
    chosen = order[:count]
    rest = order[~np.isin(patients[order], patients[chosen])]
    return (pixels[rest], labels[rest]), (pixels[chosen], labels[chosen])


def asked(count: int, size: int, kermany: tuple[Any, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Films of both sources at this size, and their labels."""
    drawn = synthesise(count, size=size, seed=3, site=1)
    films = np.stack([np.asarray(Image.fromarray(f).resize((size, size))) for f in kermany[0]])
    return (
        {"synthetic": drawn.pixels[:count], "kermany": films},
        {"synthetic": drawn.labels[:count], "kermany": kermany[1]},
    )


def train(
    model: nn.Module, pixels: Any, labels: Any, steps: int, progress: Progress, name: str
) -> None:
    """Plain training with Adam, without privacy."""
    draw = np.random.default_rng(0)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    task = progress.add_task(f"{name}: training", total=steps)
    for _ in range(steps):
        rows = draw.integers(0, len(pixels), 32)
        guess = model(to_input(torch.from_numpy(pixels[rows]), 1, "cpu"))
        loss = functional.cross_entropy(guess, torch.from_numpy(labels[rows].astype(np.int64)))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        progress.advance(task)


def check(trained: Trained, batch: int, progress: Progress) -> dict[str, Any]:
    """All runs of one network, and what the comparison's margin costs it at worst."""
    wanted = Wanted(CLASSES, "logits", 1)
    prepared = prepare(trained.model, wanted, trained.home, model_version="0" * 32)
    expected = {s: logits(trained.model, seen(films)) for s, films in trained.asked.items()}
    runs = []
    for profile, answer in RUNS:
        program = replace(prepared.program, answer=answer)
        total = sum(map(len, trained.asked.values()))
        task = progress.add_task(f"{trained.name}: {profile}, {answer}", total=total)
        found, started = {}, time.process_time()
        for source, films in trained.asked.items():
            parts = []
            for start in range(0, len(films), batch):
                part = films[start : start + batch]
                parts.append(answers(program, prepared.weights, part, profile))
                progress.advance(task, len(part))
            found[source] = np.concatenate(parts)
        seconds = (time.process_time() - started) / total
        run = {"profile": profile, "answer": answer, "cpu_seconds_per_film": round(seconds, 3)}
        runs.append(run | judge(found, expected, answer))
    films = torch.cat([seen(f) for f in trained.asked.values()])
    return {
        "network": trained.name,
        "trained": trained.origin,
        "size": trained.home.shape[1],
        "accuracy": {
            s: round(float((e.argmax(1) == trained.labels[s]).mean()), 3)
            for s, e in expected.items()
        },
        "largest_logit": max(float(np.abs(e).max()) for e in expected.values()),
        "runs": runs,
        "margin": {name: cost(trained.model, films, name) for name in ("lan", "wan")},
    }


def seen(pixels: Any) -> Tensor:
    """Films as the network was trained on them, not held at any bound."""
    return to_input(torch.from_numpy(pixels), 1, "cpu").double()


def answers(program: Program, weights: Weights, pixels: Any, profile: Profile) -> Any:
    """What the data party learns of these films: logits (n, classes), or the class alone (n,)."""
    mask_seed, seed0, seed1 = (os.urandom(32) for _ in range(3))
    films, count = encode(program, pixels), len(pixels)
    given = dict(mask_weights(program, weights, mask_seed))
    dealt = Corrections(deal(program, mask_seed, seed0, seed1, count, profile=profile))
    found = drive(
        data_party(program, given, seed0, films, profile=profile),
        model_party(program, weights, dealt, seed1, count, profile=profile),
    )
    return found.values if program.answer == "logits" else found.classes


def drive(data: Any, model: Any) -> Prediction:
    """Run both machines to their ends, each message handed over once; the data party's result."""
    machines, steps = (data, model), [next(data), next(model)]
    ways: tuple[deque[bytes], deque[bytes]] = (deque(), deque())
    ends: list[Any] = [None, None]
    for i in (0, 1):
        _post(ways[i], steps[i])
    while any(steps):
        moved = False
        for i in (0, 1):
            step, arrived = steps[i], ways[1 - i]
            if step is None or (step.expect and not arrived):
                continue
            moved = True
            try:
                steps[i] = machines[i].send(arrived.popleft() if step.expect else b"")
                _post(ways[i], steps[i])
            except StopIteration as end:
                ends[i], steps[i] = end.value, None
        if not moved:
            raise RuntimeError("both parties wait for each other")
    prediction: Prediction = ends[0]
    return prediction


def _post(way: deque[bytes], step: Step) -> None:
    if step.send is not None:
        way.append(bytes(step.send))


def judge(found: dict[str, Any], expected: dict[str, Any], answer: str) -> dict[str, Any]:
    """The largest error of a logit by source, and every film whose class differs."""
    errors, odd = {}, []
    for source, exact in expected.items():
        classes = found[source]
        if answer == "logits":
            errors[source] = float(np.abs(classes - exact).max())
            classes = classes.argmax(1)
        best = np.sort(exact, axis=1)
        for film in np.flatnonzero(classes != exact.argmax(1)):
            margin = float(best[film, -1] - best[film, -2])
            odd.append({"source": source, "film": int(film), "margin": margin, "tie": margin < TIE})
    count = sum(len(e) for e in expected.values())
    return {"films": count, "max_logit_error": errors, "classes_that_differ": odd}


def good(run: dict[str, Any]) -> bool:
    errors = run["max_logit_error"].values()
    return all(e <= MAX_ERROR for e in errors) and all(o["tie"] for o in run["classes_that_differ"])


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table("network", "run", title="Against the network in float64")
    for column in ("films", "error, synth.", "error, Kermany", "differ", "ties", "CPU s"):
        shown.add_column(column, justify="right")
    for row in rows:
        for run in row["runs"]:
            errors = [f"{e:.1e}" for e in run["max_logit_error"].values()] or ["", ""]
            odd = run["classes_that_differ"]
            counts = [str(len(odd)), str(sum(o["tie"] for o in odd))]
            cells = [str(run["films"]), *errors, *counts, f"{run['cpu_seconds_per_film']:.2f}"]
            shown.add_row(row["network"], f"{run['profile']} {run['answer']}", *cells)
    return shown


def weak_table(rows: list[dict[str, Any]]) -> Table:
    shown = Table("network", "profile", title="If every value just under zero passed")
    for column in ("values so close", "logit changes by", "classes changed"):
        shown.add_column(column, justify="right")
    for row in rows:
        for profile, c in row["margin"].items():
            cells = (f"{c['share']:.3%}", f"{c['max_logit_change']:.1e}", str(c["classes_changed"]))
            shown.add_row(row["network"], profile, *cells)
    return shown


def write(rows: list[dict[str, Any]]) -> None:
    """Into the results, in place of what they had of the same networks."""
    if RESULT.exists():
        new = {row["network"] for row in rows}
        old = json.loads(RESULT.read_text())["networks"]
        rows = [*(row for row in old if row["network"] not in new), *rows]
    head = {
        "max_error": MAX_ERROR,
        "tie": TIE,
        "python": platform.python_version(),
        "torch": version("torch"),
        "primia": version("primia"),
    }
    RESULT.write_text(json.dumps({**head, "networks": rows}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
