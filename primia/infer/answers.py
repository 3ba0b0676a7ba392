"""Answers for people and scripts. They exist at the data owner alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from primia.infer.data_owner import Costs


@dataclass(frozen=True)
class Answered:
    """One film's answer. likeliest: None for a tie that the model does not break.

    values: by class, as the program gives them; 0 and 1 where it gives the class alone.
    """

    film: str
    likeliest: str | None
    values: dict[str, float]


def answered(
    films: Sequence[Path], classes: Sequence[str], values: npt.NDArray[np.float64]
) -> list[Answered]:
    """values: (films, classes)."""
    found = []
    for film, row in zip(films, values, strict=True):
        best = int(row.argmax())
        tie = int((row == row[best]).sum()) > 1
        by_class = {name: float(v) for name, v in zip(classes, row, strict=True)}
        found.append(Answered(str(film), None if tie else classes[best], by_class))
    return found


def table(answers: Sequence[Answered], mode: str) -> Table:
    """One line a film, by what tells it from the others."""
    shown = Table(box=None, pad_edge=False)
    shown.add_column("film", overflow="fold")
    shown.add_column("class")
    classes = list(answers[0].values) if answers and mode != "class" else []
    for name in classes:
        shown.add_column(name, justify="right")
    for name, a in zip(_short([a.film for a in answers]), answers, strict=True):
        figures = [f"{a.values[c]:.{2 if mode == 'probabilities' else 4}f}" for c in classes]
        shown.add_row(name, a.likeliest or "a tie", *figures)
    return shown


def _short(films: Sequence[str]) -> list[str]:
    """Paths without the folder that all are in."""
    paths = [os.path.abspath(film) for film in films]
    common = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return [os.path.relpath(path, common) for path in paths]


def costs_table(costs: Costs) -> Table:
    """Seconds and megabytes of each phase."""
    shown = Table(box=None, pad_edge=False)
    for name in ("phase", "seconds", "MB sent", "MB received", "messages"):
        shown.add_column(name, justify="left" if name == "phase" else "right")
    names = {
        "weights": "masked weights (once a version)",
        "material": "dealing (received by the model owner)",
        "online": "the prediction itself",
    }
    for key, what in names.items():
        phase = getattr(costs, key)
        shown.add_row(
            what, f"{phase.seconds:.2f}", f"{phase.sent / 1e6:.1f}",
            f"{phase.received / 1e6:.1f}", str(phase.messages),
        )  # fmt: skip
    return shown


def as_json(
    answers: Sequence[Answered], mode: str, program: str, noise: float, costs: Costs
) -> dict[str, Any]:
    """For scripts."""
    return {
        "program": program,
        "answer": mode,
        "noise": noise,
        "films": [
            {"film": a.film, "class": a.likeliest}
            | ({} if mode == "class" else {"values": a.values})
            for a in answers
        ],
        "costs": asdict(costs),
    }
