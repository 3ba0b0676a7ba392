"""A site's quality is that of its own films, by patient, and holds the study against itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from judged_films import NAMES, bright_cohort, made_up, plan, scores_of
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    roc_auc_score,
)

from primia.alone import train_alone
from primia.config.plan import plan_digest
from primia.federation.optimiser import pack_weights
from primia.imaging.dataset import Cohort, Films
from primia.learning.evaluate import predict
from primia.learning.metrics import Floats
from primia.learning.terms import LocalTerms
from primia.pooled_quality import pooled_quality
from primia.report.quality import Quality, from_json, to_json
from primia.site_quality import WITH_NOISE, WITHOUT_NOISE, judge, site_quality
from primia.study import first_weights
from primia.types import sha256


def softmax(logits: Floats) -> Floats:
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3])
def test_figures_of_a_site_are_those_of_a_reference(classes: int) -> None:
    films, logits = made_up(1, classes)
    found = judge(NAMES[:classes], films, logits, {}, replicates=50).quality
    p, y = softmax(logits), films.labels
    if classes == 2:
        assert found.auc.value == pytest.approx(roc_auc_score(y, p[:, 1]))
    else:
        assert found.auc.value == pytest.approx(roc_auc_score(y, p, multi_class="ovr"))
    assert found.accuracy.value == pytest.approx((p.argmax(1) == y).mean())
    assert found.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(y, p.argmax(1)))
    assert found.confusion == tuple(map(tuple, confusion_matrix(y, p.argmax(1)).tolist()))
    assert found.brier == pytest.approx(((p - np.eye(classes)[y]) ** 2).sum(1).mean())
    for c, one in enumerate(found.classes):
        assert one.average_precision.value == pytest.approx(
            average_precision_score(y == c, p[:, c])
        )
        assert one.brier == pytest.approx(brier_score_loss(y == c, p[:, c]))
        tn, fp, fn, tp = confusion_matrix(y == c, p[:, c] >= 0.5).ravel()
        for b in one.reliability:
            here = (p[:, c] >= b.low) & (p[:, c] < b.high)
            assert (b.films, b.patients) == (here.sum(), np.unique(films.patients[here]).size)
        point = one.operating[0]
        assert point.counts == (tp, fp, fn, tn)
        rates = (point.sensitivity, point.specificity, point.ppv, point.npv)
        expected = (tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), tn / (tn + fn))
        assert [r.value for r in rates] == pytest.approx(expected)
        assert all(r.low is not None and r.low < r.value < r.high for r in rates)


def test_intervals_are_by_patient() -> None:
    """Every film four times over: more films, but not a patient more."""
    films, logits = made_up(2, 2)
    again = np.tile(np.arange(len(films)), 4)
    more = Films(films.pixels[again], films.labels[again], films.patients[again])
    once = judge(NAMES[:2], films, logits, {})
    four = judge(NAMES[:2], more, logits[again], {})
    assert four.quality.auc == once.quality.auc
    assert four.design_effect > 3 * once.design_effect


def test_a_model_does_not_differ_from_itself_and_differs_from_chance() -> None:
    films, logits = made_up(3, 3)
    noise = np.random.default_rng(0).normal(0, 1, logits.shape)
    same, chance = judge(
        NAMES, films, logits, {"same": logits, "chance": noise}, replicates=200
    ).comparisons
    assert same.difference.value == 0
    assert same.difference.low is None
    assert chance.difference.low > 0


def test_a_perfect_model_is_not_said_to_be_certainly_so() -> None:
    films, _ = made_up(4, 2, patients=30)
    found = judge(NAMES[:2], films, 9.0 * np.eye(2)[films.labels], {}, replicates=100).quality
    assert found.auc.value == found.auc.high == 1
    assert 0.6 < found.auc.low < 0.9


def test_films_of_one_class_give_no_auc_and_no_error() -> None:
    films, logits = made_up(5, 2)
    only = films.labels == 0
    found = judge(NAMES[:2], films.select(only), logits[only], {}, replicates=20)
    assert found.quality.auc.value is None
    assert found.quality.accuracy.value is not None
    assert found.design_effect is None


def test_masked_sums_tell_what_the_films_do() -> None:
    for classes in (2, 3):
        films, logits = made_up(6, classes, patients=400)
        ours = judge(NAMES[:classes], films, logits, {}, replicates=100).quality
        theirs = pooled_quality(scores_of(films, logits), NAMES[:classes])
        assert theirs.films == ours.films
        assert theirs.confusion == ours.confusion
        assert theirs.auc.value == pytest.approx(ours.auc.value, abs=0.003)
        assert theirs.brier == pytest.approx(ours.brier, abs=0.005)
        assert theirs.ece == pytest.approx(ours.ece, abs=0.015)
        if classes == 2:
            assert theirs.top_label_ece == pytest.approx(ours.top_label_ece, abs=0.015)
        # By film they are sure of more than by patient.
        assert width(theirs) < width(ours)


def width(found: Quality) -> float:
    return found.auc.high - found.auc.low


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return bright_cohort()


def test_the_studys_model_is_held_against_models_of_this_site_alone(cohort: Cohort) -> None:
    study = plan()
    weights = train_alone(study, cohort, private=False)
    found = site_quality(study, cohort, weights, site="site-a", replicates=100)
    assert [(c.name, c.private) for c in found.comparisons] == [
        (WITHOUT_NOISE, False),
        (WITH_NOISE, True),
    ]
    assert (found.plan, found.model) == (plan_digest(study), sha256(pack_weights(weights)))
    assert found.quality.patients == 40
    logits = predict(LocalTerms.of(study), weights, cohort.validation)
    assert found.quality.auc.value == pytest.approx(
        roc_auc_score(cohort.validation.labels, logits[:, 1] - logits[:, 0])
    )
    assert not found.shared
    assert from_json(to_json(found)) == found


def test_a_plan_without_privacy_is_compared_without(cohort: Cohort) -> None:
    study = plan(privacy="none")
    found = site_quality(study, cohort, first_weights(study), site="site-a", replicates=20)
    assert [c.name for c in found.comparisons] == [WITHOUT_NOISE]
    bare = site_quality(
        study, cohort, first_weights(study), site="site-a", replicates=20, alone="none"
    )
    assert bare.comparisons == ()
