"""Who trains and who validates: decided patient by patient with a keyed hash.

A patient's place depends on the key and on that patient's id alone, not on the order of the films
and not on who else is there. So it survives a restart, and adding or removing one patient moves
nobody else, which patient-level differential privacy takes for granted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from primia.errors import DataError

Ids = npt.NDArray[Any] | Sequence[str] | Sequence[int]

VALIDATION_KEY = b"primia validation split v1"
DIVISION_KEY = b"primia division among sites v1"

_USE_SPLIT = b"primia-split"  # personalisation of BLAKE2b (RFC 7693): one for each use
_USE_DIVIDE = b"primia-divide"


def patient_split(ids: Ids, fraction: float, key: bytes) -> npt.NDArray[np.bool_]:
    """Mark the films of patients held out for validation.

    ids: (n,) patient of each film; fraction: a patient's chance to be held out, in (0, 1);
    key: at most 64 bytes. Returns (n,) bool. The share held out is `fraction` on average, not
    exactly: an exact share would let one patient move another across the line.

    Raises DataError for no patients, or when one side would be empty.
    """
    patients, films = _unique(ids)
    held_out = _hashes(patients, key, _USE_SPLIT) < round(fraction * 2.0**64)
    if held_out.all() or not held_out.any():
        raise DataError(
            f"{len(patients)} patients are too few to hold out a share of {fraction:g} for "
            "validation; add patients or change validation_fraction"
        )
    mask: npt.NDArray[np.bool_] = held_out[films]
    return mask


def divide(ids: Ids, sites: int, key: bytes = DIVISION_KEY) -> npt.NDArray[np.int64]:
    """Deal the patients of one data set to `sites` hospitals, as evenly as their number allows.

    ids: (n,) patient of each film. Returns (n,) int64, the hospital 0..sites-1 of each film.
    Raises DataError when there are fewer patients than hospitals.
    """
    patients, films = _unique(ids)
    if len(patients) < sites:
        raise DataError(f"{len(patients)} patients cannot be divided among {sites} sites; add more")
    site = np.empty(len(patients), np.int64)
    site[np.argsort(_hashes(patients, key, _USE_DIVIDE), kind="stable")] = (
        np.arange(len(patients)) % sites
    )
    shares: npt.NDArray[np.int64] = site[films]
    return shares


def _unique(ids: Ids) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    patients, films = np.unique(np.asarray(ids), return_inverse=True)
    if not len(patients):
        raise DataError("0 patients: no usable film was found; check path and labels")
    return patients, films.reshape(-1)


def _bytes(name: str) -> bytes:
    return name.encode(errors="surrogateescape")  # a patient may be called after a file


def _hashes(patients: npt.NDArray[Any], key: bytes, use: bytes) -> npt.NDArray[np.uint64]:
    digests = [
        hashlib.blake2b(_bytes(str(p)), digest_size=8, key=key, person=use).digest()
        for p in patients.tolist()
    ]
    return np.frombuffer(b"".join(digests), "<u8")
