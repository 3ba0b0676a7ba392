"""Films, logits, masked scores and a small plan, for the tests of quality."""

from __future__ import annotations

import numpy as np

from primia.config.plan import StudyPlan
from primia.config.strict import validate
from primia.imaging.dataset import Cohort, Films
from primia.learning.metrics import Floats, MetricLayout, Metrics
from primia.report.record import Scores

NAMES = ("normal", "bacterial", "viral")


def made_up(seed: int, classes: int, patients: int = 80) -> tuple[Films, Floats]:
    """Films without anything to see, and logits that know their class a little."""
    chance = np.random.default_rng(seed)
    of = np.repeat(np.arange(patients), chance.integers(1, 4, patients))
    labels = chance.integers(0, classes, patients)[of]
    shared = chance.normal(0, 1, (patients, classes))[of]
    logits = shared + chance.normal(0, 0.4, shared.shape) + 1.5 * np.eye(classes)[labels]
    return Films(np.zeros((of.size, 4, 4), np.uint8), labels, of), logits


def scores_of(films: Films, logits: Floats, bins: int = 128) -> Scores:
    """As the coordinator stores them."""
    classes = logits.shape[1]
    layout = MetricLayout(classes, bins)
    found = Metrics.from_counts(layout, layout.count(logits, films.labels))
    curves = [np.stack(found.roc(c), axis=1).round(6).tolist() for c in range(classes)]
    return Scores(
        films=found.films,
        sites=("a", "b", "c"),
        loss=found.loss,
        auc=0.0 if np.isnan(found.auc) else found.auc,
        auc_per_class=tuple(0.0 if np.isnan(a) else a for a in found.auc_per_class),
        accuracy=found.accuracy,
        balanced_accuracy=found.balanced_accuracy,
        confusion=tuple(tuple(row) for row in found.confusion.tolist()),
        roc=tuple(tuple((x, y) for x, y in c) for c in curves),
    )


def plan(**changes: object) -> StudyPlan:
    raw = {
        "study": "small",
        "model": {"name": "small-cnn", "input_size": 28, "classes": ["no", "yes"]},
        "sites": ["site-a", "site-b", "site-c"],
        "rounds": 4,
        "training": {
            "patient_sampling_rate": 0.5,
            "local_steps": 4,
            "expected_patients": 30,
            "learning_rate": 0.1,
            "momentum": 0.5,
        },
        "privacy": {"delta": 1e-4, "noise_multiplier": 0.6},
        **changes,
    }
    return validate(StudyPlan, raw, where="test")


def bright(patients: int, seed: int) -> Films:
    """Films of 28 px; class 1 has a bright patch."""
    chance = np.random.default_rng(seed)
    of = np.repeat(np.arange(patients), chance.integers(1, 3, patients))
    labels = (of % 2).astype(np.int64)
    pixels = chance.integers(60, 140, (of.size, 28, 28))
    for film, label in zip(pixels, labels, strict=True):
        if label:
            y, x = chance.integers(2, 16, 2)
            film[y : y + 10, x : x + 10] += 90
    return Films(pixels.astype(np.uint8), labels, of.astype(np.int64))


def bright_cohort() -> Cohort:
    """Of 60 patients to train on and 40 to test on."""
    return Cohort(bright(60, 1), bright(40, 2), 0, ())
