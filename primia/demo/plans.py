"""The plans that the demonstration runs: small enough for a laptop, tuned on validation films.

They suit synthetic films and PneumoniaMNIST; a study of one's own starts from
`configs/study.example.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

EPSILON = 8.0
DELTA = 1e-4


@dataclass(frozen=True)
class Recipe:
    """How local training goes; found by trial on validation films, one seed each."""

    rounds: int
    local_steps: int
    learning_rate: float
    sampling_rate: float  # with privacy: a patient's chance per step
    patients_per_step: float | None = None  # without privacy


SYNTHETIC = Recipe(rounds=8, local_steps=10, learning_rate=0.3, sampling_rate=0.2)
GIVEN = Recipe(rounds=6, local_steps=10, learning_rate=0.3, sampling_rate=0.2)
WITHOUT_PRIVACY = Recipe(
    rounds=6, local_steps=20, learning_rate=0.05, sampling_rate=1.0, patients_per_step=64.0
)


def plan(
    *,
    sites: list[str],
    classes: tuple[str, ...],
    input_size: int,
    patients_per_site: int,
    rounds: int | None,
    recipe: Recipe,
) -> dict[str, Any]:
    """A study plan as YAML data.

    patients_per_site: roughly, training patients; sets the constant divisor. rounds: None takes
    the recipe's.
    """
    private = recipe.patients_per_step is None
    expected = recipe.patients_per_step or round(recipe.sampling_rate * patients_per_site)
    return {
        "study": "demo",
        "purpose": "Demonstration on one machine.",
        "model": {"name": "small-cnn", "input_size": input_size, "classes": list(classes)},
        "sites": sites,
        "rounds": rounds or recipe.rounds,
        "schedule": {"deadline_s": 600.0, "quorum": 3, "grace_s": 60.0, "stage_timeout_s": 60.0},
        "training": {
            "patient_sampling_rate": recipe.sampling_rate,
            "local_steps": recipe.local_steps,
            "expected_patients": max(10.0, float(expected)),
            "learning_rate": recipe.learning_rate,
            "momentum": 0.9,
        },
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
