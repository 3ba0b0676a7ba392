"""Film files as a program takes them: fitted and normalised as in training, in fixed point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from primia.errors import DataError
from primia.imaging.dataset import Pixels
from primia.imaging.pictures import Defect, Picture
from primia.imaging.sandbox import Sandbox
from primia.inference.program import Integers, Program


def read(paths: Sequence[Path], program: Program) -> Integers:
    """DICOM, PNG or JPEG files as (n, channels, height, width).

    A film is shrunk to the program's size as training does it, but not enlarged. Raises DataError
    for the first one that cannot be used; it names the file to the person who asked.
    """
    _, height, width = program.input_shape
    if height != width:
        raise DataError(
            f"the model takes films of {width} x {height} pixels; only square ones can be fitted"
        )
    squares = []
    with Sandbox(min(len(paths), 2) or 1) as sandbox:
        for path, found in zip(
            paths, sandbox.decode([(p, False) for p in paths], height), strict=True
        ):
            squares.append(_usable(path, found, height))
    return encode(np.stack(squares), program)


def encode(pixels: Pixels, program: Program) -> Integers:
    """Grey films (n, height, width) as the program takes them. Raises DataError by the number."""
    channels, *size = program.input_shape
    if list(pixels.shape[1:]) != size:
        raise DataError(
            f"a film of {pixels.shape[2]} x {pixels.shape[1]} pixels; the model was made for "
            f"{size[1]} x {size[0]}"
        )
    films = pixels.astype(np.float32)[:, None]
    if program.normalisation == "film":
        centred = films - films.mean((2, 3), keepdims=True)
        deviation = np.sqrt(np.square(centred).mean((2, 3), keepdims=True))
        films = centred / np.maximum(deviation, np.float32(1.0))
        films = np.broadcast_to(films, (len(films), channels, *size))
    else:
        mean, std = (
            np.array(v, np.float32).reshape(1, -1, 1, 1) for v in (program.mean, program.std)
        )
        films = (films / np.float32(255) - mean) / std
    beyond = np.abs(films).max((1, 2, 3)) > program.nodes[0].bound
    if beyond.any():
        raise DataError(
            f"film {int(beyond.argmax()) + 1} of {len(films)} has greys beyond what the model is "
            "calibrated for, and could be answered wrongly; is it a chest film of usual exposure?"
        )
    scaled: Integers = np.rint(films.astype(np.float64) * 2.0**program.fraction_bits)
    return scaled.astype(np.int64)


def _usable(path: Path, found: Picture | Defect, size: int) -> Pixels:
    if isinstance(found, Defect):
        raise DataError(f"{path}: {found.value}; nothing was asked")
    if found.edge < size:
        raise DataError(
            f"{path}: {found.edge} pixels along its longer edge, and the model was made for "
            f"{size} x {size}; a film is shrunk to that, never enlarged: export it at full size"
        )
    return found.pixels
