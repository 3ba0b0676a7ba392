"""NPZ archives, opened with suspicion: sizes are checked before anything is unpacked."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy
from PIL import Image

from primia.errors import DataError
from primia.imaging.dataset import Pixels
from primia.imaging.pictures import fit_square

MAX_ARRAY_BYTES = 8 << 30

# What zipfile and NumPy's header parser raise on damaged input.
_DAMAGE = (
    OSError, ValueError, TypeError, OverflowError, MemoryError, EOFError, RuntimeError, KeyError,
    SyntaxError, tokenize.TokenError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip

Form = Literal["medmnist", "plain"]


def member_names(path: Path) -> frozenset[str]:
    """Names of the arrays in the archive. Raises DataError."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except OSError as err:
        raise DataError(f"{path}: cannot be read ({err.strerror}); check the path") from err
    except _DAMAGE as err:
        raise DataError(f"{path}: not an NPZ file, or a damaged one; copy it anew") from err
    return frozenset(name.removesuffix(".npy") for name in names)


def form_of(path: Path) -> Form:
    """`medmnist` for train_images/train_labels, `plain` for images/labels. Raises DataError."""
    names = member_names(path)
    if {"train_images", "train_labels"} <= names:
        return "medmnist"
    if {"images", "labels"} <= names:
        return "plain"
    raise DataError(
        f"{path}: holds neither images/labels/patient_ids nor train_images/train_labels; "
        "write it in one of these two forms"
    )


def load_arrays(path: Path, names: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    """The named arrays that are there, nothing else of the archive. Raises DataError.

    Nothing is unpickled. The size an array declares must match what the archive declares for it,
    and zipfile never unpacks more than that, so a small file cannot fill the memory.
    """
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            present = set(archive.namelist())
            for name in names:
                if f"{name}.npy" in present:
                    found[name] = _load(archive, name, path)
    except _DAMAGE as err:
        raise DataError(f"{path}: a damaged NPZ file; copy it anew") from err
    return found


def _load(archive: zipfile.ZipFile, name: str, path: Path) -> npt.NDArray[Any]:
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > MAX_ARRAY_BYTES:
        raise DataError(f"{path}: array {name} is above {MAX_ARRAY_BYTES >> 30} GiB; divide it")
    with archive.open(info) as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise DataError(f"{path}: array {name} has an unknown format; write it with NumPy 2")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject or dtype.kind not in "uiU":
            raise DataError(
                f"{path}: array {name} is {dtype}; pictures are uint8, labels integers, "
                "patient ids integers or text"
            )
        if math.prod(shape) * dtype.itemsize != info.file_size - file.tell():
            raise DataError(f"{path}: array {name} is not as long as it says; copy the file anew")
    with archive.open(info) as file:
        array: npt.NDArray[Any] = npy.read_array(file, allow_pickle=False)
    return array


def squares(images: npt.NDArray[Any], size: int | None, path: Path) -> Pixels:
    """Bring (n, h, w), (n, h, w, 1) or (n, h, w, 3) uint8 to grey (n, size, size).

    size: None keeps the size of square pictures. Raises DataError for any other array.
    """
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    colour = images.ndim == 4 and images.shape[3] == 3
    if images.dtype != np.uint8 or not (images.ndim == 3 or colour):
        raise DataError(
            f"{path}: pictures are {images.dtype} of shape {images.shape}; need uint8 (n, h, w)"
        )
    if images.size and min(images.shape[1:3]) < 1:
        raise DataError(f"{path}: pictures without pixels")
    size = max(images.shape[1:3]) if size is None else size
    if not colour and images.shape[1:] == (size, size):
        return np.ascontiguousarray(images)
    result = np.empty((len(images), size, size), np.uint8)
    for i, image in enumerate(images):
        result[i] = fit_square(Image.fromarray(image).convert("L"), size)
    return result
