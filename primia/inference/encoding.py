"""A film's pixels as the fixed-point numbers that a program takes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from primia.inference.program import Integers, Program

Floats = npt.NDArray[np.float64]


def normalise(program: Program, pixels: npt.NDArray[np.uint8]) -> Floats:
    """Grey films (n, side, side) as the network was trained on them: (n, channels, side, side).

    With normalisation "film" each by its own mean and deviation, as `primia.learning` does.
    Values beyond the input's bound are held there: a bound that a film passes would give a wrong
    answer without a sign. Raises ValueError for films of another size.
    """
    channels, height, width = program.input_shape
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[1:] != (height, width):
        raise ValueError(
            f"films are {pixels.dtype} {pixels.shape}, need uint8 (n, {height}, {width})"
        )
    films = pixels[:, None].astype(np.float64)
    if program.normalisation == "fixed":
        mean = np.array(program.mean).reshape(1, -1, 1, 1)
        films = (films / 255 - mean) / np.array(program.std).reshape(1, -1, 1, 1)
    else:
        films = films - films.mean((2, 3), keepdims=True)
        films = films / np.maximum(np.sqrt((films**2).mean((2, 3), keepdims=True)), 1.0)
    bound = program.nodes[0].bound
    return np.broadcast_to(films.clip(-bound, bound), (len(films), channels, height, width)).copy()


def encode(program: Program, pixels: npt.NDArray[np.uint8]) -> Integers:
    """Normalised films in fixed point, `program.fraction_bits` of fraction."""
    scaled = np.rint(normalise(program, pixels) * 2.0**program.fraction_bits)
    return scaled.astype(np.int64)
