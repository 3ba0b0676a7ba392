"""Film files as a program takes them: fitted and normalised as in training, in fixed point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from primia.errors import DataError
from primia.imaging.dataset import Pixels
from primia.imaging.pictures import Defect, Picture
from primia.imaging.sandbox import Sandbox
from primia.inference.encoding import encode
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
    return encode(program, np.stack(squares))


def _usable(path: Path, found: Picture | Defect, size: int) -> Pixels:
    if isinstance(found, Defect):
        raise DataError(f"{path}: {found.value}; nothing was asked")
    if found.edge < size:
        raise DataError(
            f"{path}: {found.edge} pixels along its longer edge, and the model was made for "
            f"{size} x {size}; a film is shrunk to that, never enlarged: export it at full size"
        )
    return found.pixels
