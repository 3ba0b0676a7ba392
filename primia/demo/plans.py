"""The plans that the demonstration runs: small enough for a laptop, tuned on validation films.

The figures were found by trial on synthetic films and on PneumoniaMNIST; see docs/demo.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

EPSILON = 8.0
DELTA = 1e-4


def plan(
    *,
    sites: list[str],
    classes: tuple[str, ...],
    input_size: int,
    patients_per_site: int,
    rounds: int | None,
    private: bool,
) -> dict[str, Any]:
    """A study plan as YAML data.

    patients_per_site: roughly, training patients; sets the constant divisor. rounds: None takes
    the default of the kind of training.
    """
    rate = 0.3 if private else 1.0
    training: dict[str, Any] = {
        "patient_sampling_rate": rate,
        "local_steps": 10,
        "expected_patients": max(10.0, float(round(rate * patients_per_site))),
        "learning_rate": 0.5,
        "momentum": 0.9,
    }
    if not private:
        training |= {"expected_patients": 32.0, "learning_rate": 0.1, "local_steps": 30}
    return {
        "study": "demo",
        "purpose": "Demonstration on one machine.",
        "model": {"name": "small-cnn", "input_size": input_size, "classes": list(classes)},
        "sites": sites,
        "rounds": rounds or 10,
        "schedule": {"deadline_s": 600.0, "quorum": 3, "grace_s": 60.0, "stage_timeout_s": 60.0},
        "training": training,
        "privacy": {"clip_norm": 1.0, "delta": DELTA, "target_epsilon": EPSILON}
        if private
        else "none",
    }


def site_file(films: Path, *, private: bool) -> dict[str, Any]:
    """One hospital's file as YAML data; `films` is its NPZ."""
    return {
        "data": {"kind": "npz", "path": str(films), "validation_fraction": 0.2},
        "caps": {
            "max_epsilon": EPSILON,
            "max_delta": DELTA,
            "min_cohort": 3,
            "min_patients": 20,
            "allow_no_privacy": not private,
        },
        "compute": {"device": "cpu", "threads": 1},
    }


def write_yaml(data: dict[str, Any], path: Path) -> Path:
    """Write plain data as YAML; numbers as the strict loader reads them."""
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path
