"""A small plan and films for the attacks."""

from __future__ import annotations

from typing import Any

from primia.audit.films import Case, drawn
from primia.config.plan import StudyPlan
from primia.config.strict import validate


def small_plan(**privacy: Any) -> StudyPlan:
    """Three classes at 28 px, and the smallest noise that a worker accepts."""
    return validate(
        StudyPlan,
        {
            "study": "attacked",
            "model": {
                "name": "small-cnn",
                "input_size": 28,
                "classes": ["normal", "bacterial", "viral"],
            },
            "sites": ["a", "b", "c"],
            "rounds": 8,
            "training": {
                "patient_sampling_rate": 0.2,
                "local_steps": 10,
                "expected_patients": 64,
                "learning_rate": 0.3,
            },
            "privacy": {"delta": 1e-4, "noise_multiplier": 0.5, **privacy},
        },
        where="test",
    )


def case(seed: int = 0, patients: int = 260, **privacy: Any) -> Case:
    plan = small_plan(**privacy)
    return Case(plan, drawn(plan, seed, patients=patients), own=False)
