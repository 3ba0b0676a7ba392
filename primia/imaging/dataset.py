"""Films in memory: grey pixels, class indices and dense patient indices, checked once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from primia.imaging.manifest import Manifest

Pixels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Films:
    """Films of one site, or a part of them.

    pixels: (n, size, size) uint8, grey.
    labels: (n,) int64, index into the plan's classes.
    patients: (n,) int64, every value of 0..P-1 at least once. Never leaves the site.

    Raises ValueError when the parts do not fit together (a bug in a reader, not a user's mistake).
    """

    pixels: Pixels
    labels: Indices
    patients: Indices

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or len(shape) != 3 or shape[1] != shape[2]:
            raise ValueError(f"pixels: {self.pixels.dtype}{shape}, need uint8 (n, size, size)")
        for name, column in (("labels", self.labels), ("patients", self.patients)):
            if column.dtype != np.int64 or column.shape != shape[:1]:
                raise ValueError(f"{name}: {column.dtype}{column.shape}, need int64 {shape[:1]}")
        if self.labels.size and self.labels.min() < 0:
            raise ValueError("labels: below 0")
        present = np.unique(self.patients)
        if not np.array_equal(present, np.arange(present.size)):
            raise ValueError("patients: not 0..P-1 without gaps")

    @classmethod
    def of(cls, pixels: Pixels, labels: Indices, patient_ids: npt.NDArray[Any]) -> Self:
        """Films whose patients are numbered by the sorted order of `patient_ids` (n,)."""
        _, dense = np.unique(patient_ids, return_inverse=True)
        return cls(pixels, labels, dense.reshape(-1).astype(np.int64))

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def size(self) -> int:
        """Edge of the square films in pixels."""
        return int(self.pixels.shape[1])

    @property
    def patient_count(self) -> int:
        """How many different patients; private, leaves only inside a masked sum."""
        return int(self.patients.max()) + 1 if len(self) else 0

    def select(self, mask: npt.NDArray[np.bool_]) -> Films:
        """The films where `mask` (n,) is true; their patients are numbered anew from 0."""
        return Films.of(self.pixels[mask], self.labels[mask], self.patients[mask])


@dataclass(frozen=True)
class Reject:
    """A film that was left out. As text it is fit for a log; `path` is for the steward's eyes."""

    pseudonym: str
    path: Path
    where: str  # "line 7" of a table, or empty
    code: str
    reason: str

    def __str__(self) -> str:
        return f"film {self.pseudonym}" + (f", {self.where}" if self.where else "")


@dataclass(frozen=True)
class Pool:
    """All readable films of a source, before the split; patients still by the site's own ids."""

    pixels: Pixels  # (n, size, size)
    labels: Indices  # (n,)
    patient_ids: npt.NDArray[np.str_]  # (n,)
    rejects: tuple[Reject, ...] = ()  # films that were left out
    warnings: tuple[str, ...] = ()  # one line each; no file name, no patient id
    unnamed: npt.NDArray[np.bool_] | None = None  # (n,) where patient_ids is a mere place or file

    @property
    def quarantined(self) -> int:
        """How many films were left out."""
        return len(self.rejects)

    def select(self, mask: npt.NDArray[np.bool_]) -> Pool:
        """The films where `mask` (n,) is true."""
        return replace(
            self,
            pixels=self.pixels[mask],
            labels=self.labels[mask],
            patient_ids=self.patient_ids[mask],
            unnamed=None if self.unnamed is None else self.unnamed[mask],
        )

    def films(self) -> Films:
        """The pool with dense patient indices."""
        return Films.of(self.pixels, self.labels, self.patient_ids)


@dataclass(frozen=True)
class Cohort:
    """What a site brings to a study. No patient stands in both parts."""

    train: Films
    validation: Films
    quarantined: int
    warnings: tuple[str, ...]
    rejects: tuple[Reject, ...] = ()
    manifest: Manifest | None = None  # when it was loaded with a site key
