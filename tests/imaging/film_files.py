"""Small film files for the imaging tests."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from primia.imaging.dataset import Pixels

CLASSES = ("normal", "bacterial", "viral")
REAL = Path(os.environ.get("PRIMIA_DATA", Path(__file__).parents[3] / "shared" / "data"))


def real(name: str) -> Path:
    """A file of the openly licensed films, or a skip that names it."""
    path = REAL / name
    if not path.exists():
        pytest.skip(f"{name} is not there; set PRIMIA_DATA to the folder that holds it")
    return path


def film(seed: int, *, height: int = 40, width: int = 40) -> Pixels:
    """A picture that differs from that of any other seed."""
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def encoded(picture: np.ndarray, form: str = "PNG") -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, form)
    return file.getvalue()


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """A table."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def class_folders(root: Path, films: int, names: Sequence[str] = CLASSES) -> list[str]:
    """Films dealt to class folders in turn; gives their paths relative to `root`."""
    paths = []
    for i in range(films):
        name = f"{names[i % len(names)]}/{i:03d}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(film(i)))
        paths.append(name)
    return paths


def listed_films(root: Path, films: int, *, per_patient: int = 2) -> list[list[object]]:
    """Films in one folder, and the rows (file, label, patient) that list them."""
    rows: list[list[object]] = []
    (root / "films").mkdir(parents=True, exist_ok=True)
    for i in range(films):
        (root / "films" / f"{i:03d}.png").write_bytes(encoded(film(i)))
        rows.append([f"films/{i:03d}.png", CLASSES[i % 3], f"P{i // per_patient:03d}"])
    return rows
