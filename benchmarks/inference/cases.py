"""The networks that are compared, prepared, with a film and the exact answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from primia.imaging.synth import CLASSES, synthesise
from primia.inference import model_file
from primia.inference.encoding import normalise
from primia.inference.prepare import Wanted, prepare
from primia.inference.program import to_json
from primia.learning.models import build
from primia.learning.vision import resnet18

FILMS = 16


@dataclass(frozen=True)
class Case:
    name: str
    network: str
    norm: str  # fold: batch norm, folded; gn: GroupNorm
    size: int


CASES = (
    Case("small-cnn-28", "small-cnn", "fold", 28),
    *(Case(f"resnet18-{n}-{s}", "resnet18", n, s) for s in (28, 64, 224) for n in ("fold", "gn")),
)


def make(case: Case, folder: Path) -> None:
    """Write into `folder`: model (for primia), program.json, weights.npz, film.npy, film.png,
    expected.npy (logits of the network in float64)."""
    from PIL import Image

    pixels = synthesise(FILMS, size=case.size, seed=0).pixels[:FILMS]
    model = _network(case, pixels)
    prepared = prepare(model, Wanted(CLASSES, "logits", 1), pixels, model_version="0" * 32)
    program, weights = prepared.program, prepared.weights
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model").write_bytes(model_file.pack(program, weights))
    (folder / "program.json").write_bytes(to_json(program))
    norms = {n.name for n in program.nodes if n.op.kind in {"group-norm", "affine"}}
    real = {}
    for name, value in weights.items():
        node, _, part = name.rpartition(".")
        bits = 32 if part == "bias" and node not in norms else 16
        real[name] = (value / 2.0**bits).astype(np.float32)
    np.savez(folder / "weights.npz", **real)
    film = normalise(program, pixels[:1])
    np.save(folder / "film.npy", film.astype(np.float32), allow_pickle=False)
    with torch.inference_mode():
        expected = model(torch.from_numpy(film)).numpy()
    np.save(folder / "expected.npy", expected, allow_pickle=False)
    Image.fromarray(pixels[0]).save(folder / "film.png")


def _network(case: Case, pixels: Any) -> nn.Module:
    torch.manual_seed(1)
    if case.network == "small-cnn":
        layers: list[nn.Module] = []
        for before, width in ((1, 16), (16, 32), (32, 32)):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
        model: nn.Module = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3)
        )
    elif case.norm == "gn":
        return build("resnet18-gn", input_size=case.size, channels=1, classes=3, seed=1).eval()
    else:
        model = resnet18(weights=None, num_classes=3)
        model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    x = torch.from_numpy(pixels).float()[:, None]
    x = (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True)
    with torch.no_grad():
        for _ in range(10):  # batch norms that have seen films
            model(x)
    return model.eval()
