"""Masked sums alone give curves, calibration and intervals, and say what they cannot."""

from __future__ import annotations

import numpy as np
import pytest
from judged_films import NAMES, made_up, scores_of

from primia.imaging.dataset import Films
from primia.learning.metrics import MetricLayout, Metrics
from primia.pooled_quality import _ranked, pooled_quality
from primia.report.quality import Estimate


@pytest.mark.parametrize("classes", [2, 3])
def test_a_stored_roc_gives_the_summed_histograms_back(classes: int) -> None:
    films, logits = made_up(1, classes, patients=3000)
    layout = MetricLayout(classes, 64)
    whole = Metrics.from_counts(layout, layout.count(logits, films.labels))
    scores = scores_of(films, logits, bins=64)
    for c in range(classes):
        found = _ranked(scores, c)
        assert np.array_equal(found.positives, whole.positives[c])
        assert np.array_equal(found.negatives, whole.negatives[c])


def coverage(runs: int, truth: float) -> float:
    held = 0
    for seed in range(runs):
        chance = np.random.default_rng(seed)
        labels = chance.integers(0, 2, 300)
        logits = np.stack([np.zeros(300), 2.3 * labels + chance.standard_normal(300)], axis=1)
        films = Films(np.zeros((300, 4, 4), np.uint8), labels, np.arange(300))
        auc = pooled_quality(scores_of(films, logits), NAMES[:2]).auc
        held += auc.low <= truth <= auc.high
    return held / runs


def test_intervals_by_film_cover_where_every_patient_has_one() -> None:
    """Promised 0.95; 0.9 is 3.2 standard errors below it with 200 studies, whose seeds are fixed.

    The true AUC is Phi(2.3 / sqrt 2)."""
    assert coverage(200, 0.9481) >= 0.9


def test_the_error_of_a_mean_over_classes_is_not_understated() -> None:
    films, logits = made_up(2, 3, patients=400)
    found = pooled_quality(scores_of(films, logits), NAMES)
    chance, every = np.random.default_rng(0), np.arange(len(films))
    drawn = []
    for _ in range(200):
        rows = chance.choice(every, len(films))
        one = Films(films.pixels[rows], films.labels[rows], np.arange(len(rows)))
        drawn.append(scores_of(one, logits[rows]).auc)
    assert found.auc.high - found.auc.low >= 0.95 * 2 * 1.96 * np.std(drawn)


def test_films_of_one_class_have_no_auc() -> None:
    films, logits = made_up(3, 2)
    only = films.labels == 1
    found = pooled_quality(scores_of(films.select(only), logits[only]), NAMES[:2])
    assert found.auc == Estimate(None)
    assert found.classes[1].roc == ()
    assert found.unit == "film"
    assert found.patients is None
