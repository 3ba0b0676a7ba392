import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from primia.errors import PeerError
from primia.learning.metrics import MetricLayout, Metrics


def made_up(n, classes, *, spread, shift, seed):
    """Logits of a model that is right more or less often, and more or less sure of itself."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), labels] += shift
    return logits * spread + np.linspace(0, 0.7 * spread, classes), labels


def softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.03, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("shift", [0.0, 0.7, 3.0])
def test_auc_from_histograms_is_the_exact_one_to_3_thousandths(classes, spread, shift):
    logits, labels = made_up(1500, classes, spread=spread, shift=shift, seed=classes)
    layout = MetricLayout(classes, 128)
    metrics = Metrics.from_counts(layout, layout.count(logits, labels))
    p = softmax(logits)
    scores = p[:, 1] if classes == 2 else p
    exact = roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    assert metrics.auc == pytest.approx(exact, abs=3e-3)


def test_the_other_figures_are_exact():
    logits, labels = made_up(999, 3, spread=1.5, shift=1.0, seed=4)
    layout = MetricLayout(3, 64)
    metrics = Metrics.from_counts(layout, layout.count(logits, labels))
    predicted = logits.argmax(1)
    assert metrics.films == 999
    assert metrics.accuracy == pytest.approx((predicted == labels).mean())
    assert metrics.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert metrics.loss == pytest.approx(log_loss(labels, softmax(logits)), abs=1e-4)
    assert metrics.confusion[1, 2] == np.count_nonzero((labels == 1) & (predicted == 2))


@given(
    n=st.lists(st.integers(0, 40), min_size=3, max_size=3),
    classes=st.integers(2, 4),
    bins=st.integers(16, 200),
)
@settings(max_examples=40, deadline=None)
def test_counts_of_sites_add_up_to_the_counts_of_all_their_films(n, classes, bins):
    layout = MetricLayout(classes, bins)
    parts = [made_up(k, classes, spread=2, shift=1, seed=i) for i, k in enumerate(n)]
    summed = sum(layout.count(*part) for part in parts)
    whole = layout.count(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    assert summed.dtype == np.uint32
    assert summed.shape == (layout.length,)
    loss = layout.length - 2
    assert np.array_equal(np.delete(summed, loss), np.delete(whole, loss))
    assert abs(int(summed[loss]) - int(whole[loss])) <= 2  # each site rounds once
    assert Metrics.from_counts(layout, summed).films == sum(n)


def test_roc_runs_from_corner_to_corner_and_encloses_the_auc():
    logits, labels = made_up(800, 2, spread=2, shift=1, seed=2)
    layout = MetricLayout(2, 128)
    metrics = Metrics.from_counts(layout, layout.count(logits, labels))
    false_rate, true_rate = metrics.roc(1)
    assert (false_rate[0], true_rate[0], false_rate[-1], true_rate[-1]) == (0, 0, 1, 1)
    assert (np.diff(false_rate) >= 0).all()
    assert (np.diff(true_rate) >= 0).all()
    assert np.trapezoid(true_rate, false_rate) == pytest.approx(metrics.auc)


def test_no_film_or_a_missing_class_gives_no_number_instead_of_a_wrong_one():
    layout = MetricLayout(3, 16)
    empty = Metrics.from_counts(layout, np.zeros(layout.length, np.uint32))
    assert all(np.isnan([empty.loss, empty.accuracy, empty.balanced_accuracy, empty.auc]))
    logits, labels = made_up(50, 3, spread=1, shift=3, seed=1)
    labels[labels == 2] = 0
    metrics = Metrics.from_counts(layout, layout.count(logits, labels))
    assert np.isnan(metrics.auc_per_class[2])
    assert metrics.auc == pytest.approx(np.mean(metrics.auc_per_class[:2]))


def test_absurd_logits_are_counted_within_bounds():
    layout = MetricLayout(2, 16)
    logits = np.array([[np.nan, np.inf], [-1e30, 1e30], [1e30, -1e30]])
    counts = layout.count(logits, np.array([0, 0, 1]))
    metrics = Metrics.from_counts(layout, counts)
    assert metrics.films == 3
    assert metrics.loss <= 16


@pytest.mark.parametrize("index", [0, 4, 40, -2, -1])
def test_counts_that_contradict_each_other_are_refused(index):
    layout = MetricLayout(2, 32)
    counts = layout.count(*made_up(20, 2, spread=1, shift=1, seed=0))
    counts[index] += 100_000
    with pytest.raises(PeerError, match="do not add up"):
        Metrics.from_counts(layout, counts)
    with pytest.raises(PeerError, match="shape"):
        Metrics.from_counts(layout, counts[:-1])


def test_metrics_and_terms_load_no_torch():
    code = (
        "import sys, primia.learning.metrics, primia.learning.terms; print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
