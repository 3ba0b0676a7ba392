from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from primia.learning import resampling
from primia.learning.resampling import (
    Replicates,
    auc_of,
    average_precision_of,
    difference,
    interval,
    interval_of,
    mean_of,
    resample,
    share_of,
)


def clustered(seed: int, patients: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Films that resemble each other within a patient: (patient, positive, score). AUC 0.871."""
    chance = np.random.default_rng(seed)
    of = np.repeat(np.arange(patients), chance.geometric(0.4, patients))
    positive = (chance.random(patients) < 0.5)[of]
    shared, own = chance.standard_normal(patients)[of], chance.standard_normal(of.size)
    return of, positive, 1.6 * positive + np.sqrt(0.8) * shared + np.sqrt(0.2) * own


TRUE_AUC = 0.8711  # Phi(1.6 / sqrt 2)


@pytest.mark.parametrize("seed", range(5))
def test_weights_count_a_film_as_often_as_a_reference_repeats_it(seed: int) -> None:
    _, positive, score = clustered(seed)
    score = score.round(1)  # ties
    weights = np.random.default_rng(seed).integers(0, 4, (3, score.size)).astype(float)
    aucs = auc_of(score, positive)(weights)
    precisions = average_precision_of(score, positive)(weights)
    accuracies = share_of((score > 1) == positive, np.ones(score.size, bool))(weights)
    for i, row in enumerate(weights.astype(int)):
        films = np.repeat(np.arange(score.size), row)
        assert aucs[i] == pytest.approx(roc_auc_score(positive[films], score[films]))
        expected = average_precision_score(positive[films], score[films])
        assert precisions[i] == pytest.approx(expected)
        assert accuracies[i] == pytest.approx(((score > 1) == positive)[films].mean())


def test_films_of_a_patient_are_drawn_together() -> None:
    units = np.array([0, 0, 0, 1, 2, 2])
    seen: list[np.ndarray] = []

    def watch(weights: np.ndarray) -> np.ndarray:
        seen.append(weights)
        return weights[:, 0]

    resample(units, {"watch": watch}, replicates=50, seed=0)
    drawn = seen[1]
    assert (drawn[:, :3] == drawn[:, :1]).all()
    assert (drawn[:, 4] == drawn[:, 5]).all()
    assert (drawn[:, 0] + drawn[:, 3] + drawn[:, 4] == 3).all()  # so many patients in each
    assert (drawn.std(0) > 0).all()


def test_blocks_do_not_change_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    of, positive, score = clustered(0)
    draw = partial(resample, of, {"auc": auc_of(score, positive)}, replicates=101, seed=5)
    whole = draw()["auc"].drawn
    monkeypatch.setattr(resampling, "_ROOM", 7 * of.size)
    assert np.array_equal(draw()["auc"].drawn, whole)


def coverage(runs: int, *, by_film: bool) -> float:
    """Share of made-up studies whose interval holds the true AUC."""
    held = 0
    for seed in range(runs):
        of, positive, score = clustered(seed)
        units = np.arange(of.size) if by_film else of
        fewer = min(np.unique(of[positive]).size, np.unique(of[~positive]).size)
        found = resample(units, {"auc": auc_of(score, positive)}, replicates=300, seed=seed)
        low, high = interval(found["auc"], fewer) or (0, 1)
        held += low <= TRUE_AUC <= high
    return held / runs


def test_intervals_by_patient_cover_and_those_by_film_do_not() -> None:
    """Promised 0.95. With 300 studies 0.91 is three standard errors below it: a build that covers
    so fails one in 700 choices of seeds, and these are fixed. By film it is 0.7 or so."""
    assert coverage(300, by_film=False) >= 0.91
    assert coverage(300, by_film=True) <= 0.85


def test_differences_are_of_the_same_draws() -> None:
    of, positive, score = clustered(3)
    nearly = score + 0.01 * np.random.default_rng(0).standard_normal(score.size)
    both = {"one": auc_of(score, positive), "other": auc_of(nearly, positive)}
    found = resample(of, both, replicates=500, seed=0)
    value, reach = difference(found["one"], found["other"], 20)
    assert reach is not None
    low, high = interval(found["one"], 20) or (0, 0)
    assert low < high
    assert reach[0] <= value <= reach[1]
    assert reach[1] - reach[0] < 0.1 * (high - low)


def test_a_figure_of_one_says_no_more_than_its_patients_do() -> None:
    perfect = Replicates(1.0, np.ones(100))
    low, high = interval(perfect, 20) or (0, 0)
    assert high == 1
    assert low**20 == pytest.approx(0.025)
    mirrored = interval(Replicates(0.0, np.zeros(100)), 20)
    assert mirrored == pytest.approx((0, 1 - low))


def test_no_interval_where_too_few_draws_can_tell() -> None:
    drawn = np.concatenate([np.full(10, np.nan), np.linspace(0.5, 0.6, 90)])
    assert interval(Replicates(0.55, drawn), 20) is None
    assert interval_of(float("nan"), 0.1, 20) is None
    assert interval_of(0.5, 0.0, 20) is None


def test_one_class_alone_gives_no_figure() -> None:
    weights = np.ones((2, 3))
    none = np.zeros(3, bool)
    assert np.isnan(auc_of(np.arange(3.0), none)(weights)).all()
    assert np.isnan(average_precision_of(np.arange(3.0), none)(weights)).all()
    assert np.isnan(mean_of([auc_of(np.arange(3.0), none)])(weights)).all()


def test_students_law_is_that_of_a_reference() -> None:
    for freedom in range(4, 200):
        expected = stats.t.ppf(0.975, freedom)
        assert resampling.student(freedom) == pytest.approx(expected, abs=0.01)
