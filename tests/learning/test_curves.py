from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    roc_auc_score,
)

from primia.learning import curves
from primia.learning.curves import Ranked
from primia.learning.metrics import MetricLayout, one_vs_rest, probability


def films(seed: int, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with many ties, and truth that goes with them."""
    chance = np.random.default_rng(seed)
    p = chance.beta(0.8, 1.2, count).round(2)
    return p, chance.random(count) < 0.15 + 0.7 * p


def ranked(p: np.ndarray, truth: np.ndarray) -> Ranked:
    return Ranked.of(p, p, truth)


def area(points: curves.Points) -> float:
    x, y = np.array(points).T
    return float(np.trapezoid(y, x))


@pytest.mark.parametrize("seed", range(5))
def test_roc_precision_and_brier_are_those_of_a_reference(seed: int) -> None:
    p, truth = films(seed)
    found = ranked(p, truth)
    assert area(curves.roc(found)) == pytest.approx(roc_auc_score(truth, p), abs=1e-5)
    _, average_precision = curves.precision_recall(found)
    assert average_precision == pytest.approx(average_precision_score(truth, p))
    assert curves.brier(found) == pytest.approx(brier_score_loss(truth, p))


@pytest.mark.parametrize("seed", range(5))
def test_reliability_is_that_of_a_reference(seed: int) -> None:
    p, truth = films(seed)
    stretches = curves.reliability(ranked(p, truth))
    observed, predicted = calibration_curve(truth, p, n_bins=10)
    # The reference closes its stretches above, these close below: move the ties apart.
    moved = np.clip(p + 1e-9, 0, 1 - 1e-9)
    observed, predicted = calibration_curve(truth, moved, n_bins=10)
    assert [s.observed for s in stretches] == pytest.approx(observed)
    assert [s.predicted for s in stretches] == pytest.approx(predicted, abs=1e-6)
    assert sum(s.films for s in stretches) == p.size
    weights = np.array([s.films for s in stretches]) / p.size
    error = (weights * np.abs(observed - predicted)).sum()
    assert curves.calibration_error(stretches) == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_counts_at_a_threshold_are_those_of_a_reference(seed: int) -> None:
    p, truth = films(seed)
    found = ranked(p, truth)
    fixed, sensitive, specific = curves.cuts(found)
    for cut in (fixed, sensitive, specific):
        tn, fp, fn, tp = confusion_matrix(truth, p >= cut.threshold).ravel()
        assert curves.table_at(found, cut) == (tp, fp, fn, tn)
    assert (fixed.threshold, fixed.chosen_here, sensitive.chosen_here) == (0.5, False, True)
    above = p[p > sensitive.threshold]
    assert (truth & (p >= sensitive.threshold)).sum() >= 0.9 * truth.sum()
    assert above.size == 0 or (truth & (p > sensitive.threshold)).sum() < 0.9 * truth.sum()
    below = p[p < specific.threshold].max()
    assert (~truth & (p < specific.threshold)).sum() >= 0.9 * (~truth).sum()
    assert (~truth & (p < below)).sum() < 0.9 * (~truth).sum()


def test_the_error_of_an_auc_by_film_is_that_of_delong() -> None:
    p, truth = films(1, 80)
    more = (p[truth][:, None] > p[~truth]) + 0.5 * (p[truth][:, None] == p[~truth])
    expected = more.mean(1).var(ddof=1) / truth.sum() + more.mean(0).var(ddof=1) / (~truth).sum()
    assert curves.auc_error(ranked(p, truth)) == pytest.approx(expected**0.5)


@pytest.mark.parametrize("classes", [2, 3])
def test_histograms_tell_nearly_what_the_films_do(classes: int) -> None:
    chance = np.random.default_rng(3)
    labels = chance.integers(0, classes, 800)
    logits = chance.normal(0, 1.5, (800, classes)) + 1.5 * np.eye(classes)[labels]
    layout = MetricLayout(classes, 128)
    counts = layout.count(logits, labels).astype(np.int64)
    histograms = counts[classes**2 : -2].reshape(2, classes, 128)
    for c in range(classes):
        scores = one_vs_rest(logits)[:, c]
        exact = Ranked.of(scores, probability(scores, classes), labels == c)
        binned = Ranked.of_histogram(layout, histograms[0, c], histograms[1, c])
        assert area(curves.roc(binned)) == pytest.approx(area(curves.roc(exact)), abs=2e-3)
        ours, theirs = curves.precision_recall(binned)[1], curves.precision_recall(exact)[1]
        assert ours == pytest.approx(theirs, abs=0.01)
        assert curves.brier(binned) == pytest.approx(curves.brier(exact), abs=1e-3)
        errors = [curves.calibration_error(curves.reliability(r)) for r in (binned, exact)]
        assert errors[0] == pytest.approx(errors[1], abs=0.011)
        if classes == 2:
            fixed = [curves.cuts(r)[0] for r in (binned, exact)]
            assert fixed[0].threshold == pytest.approx(0.5)
            assert curves.table_at(binned, fixed[0]) == curves.table_at(exact, fixed[1])


def test_the_probabilities_of_a_bin_are_those_of_its_scores() -> None:
    scores = np.random.default_rng(0).normal(0, 3, 1000)
    layout = MetricLayout(3, 128)
    edges, _ = layout.probabilities()
    at, p = layout.bin_of(scores), probability(scores, 3)
    assert ((edges[at] <= p + 1e-12) & (p <= edges[at + 1] + 1e-12)).all()


def test_the_likelier_of_two_classes_is_judged_by_whether_it_was_right() -> None:
    p, truth = films(2)
    found = curves.most_likely(ranked(p, truth))
    sure, right = np.maximum(p, 1 - p), (p >= 0.5) == truth
    assert curves.brier(found) == pytest.approx(np.mean((sure - right) ** 2))


@settings(max_examples=60)
@given(
    arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)),
    st.integers(0, 2**32 - 1),
)
def test_curves_rise_and_stay_in_the_square(p: np.ndarray, seed: int) -> None:
    truth = np.random.default_rng(seed).random(p.size) < 0.5
    found = ranked(p, truth)
    for points in (curves.roc(found), curves.precision_recall(found)[0]):
        x = [a for a, _ in points]
        assert x == sorted(x)
        assert all(0 <= a <= 1 and 0 <= b <= 1 for a, b in points)
    for cut in curves.cuts(found):
        assert sum(curves.table_at(found, cut)) == p.size


def test_one_class_alone_has_no_curve() -> None:
    found = ranked(np.array([0.2, 0.7]), np.array([False, False]))
    assert curves.roc(found) == ()
    assert np.isnan(curves.precision_recall(found)[1])
    assert np.isnan(curves.auc_error(found))
    assert [c.name for c in curves.cuts(found)] == ["p ≥ 0.5"]
