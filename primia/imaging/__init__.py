"""Films to arrays: readers, checks, the split by patient, synthetic films. No torch here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from primia.imaging.dataset import Cohort, Films
    from primia.imaging.division import Divided, divide_npz
    from primia.imaging.export import write_site_npz
    from primia.imaging.readers import load_cohort
    from primia.imaging.split import divide, patient_split
    from primia.imaging.synth import synthesise, synthesise_sites

__all__ = [
    "Cohort",
    "Divided",
    "Films",
    "divide",
    "divide_npz",
    "load_cohort",
    "patient_split",
    "synthesise",
    "synthesise_sites",
    "write_site_npz",
]

_HOME = {
    "Cohort": "dataset", "Films": "dataset", "Divided": "division", "divide_npz": "division",
    "write_site_npz": "export", "load_cohort": "readers", "divide": "split",
    "patient_split": "split", "synthesise": "synth", "synthesise_sites": "synth",
}  # fmt: skip


def __getattr__(name: str) -> object:
    """Load on first use: the processes that decode films need two modules of this package."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
