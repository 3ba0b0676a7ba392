"""LiRA and RMIA against plain references, film by film and patient by patient."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from primia.audit.membership_scores import (
    GAMMA,
    References,
    confidence,
    likelihood_ratio,
    lira,
    of_patients,
    ratio_of_strangers,
    rmia,
)

PATIENTS = np.array([0, 0, 1, 2, 2, 2, 3])  # of each of seven films
MEMBERS = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1]], bool)


@pytest.fixture
def references() -> References:
    rng = np.random.default_rng(3)
    inside = MEMBERS[:, PATIENTS]
    return References(rng.normal(0, 1, inside.shape) + 2.0 * inside, MEMBERS)


@pytest.fixture
def target() -> np.ndarray:
    return np.random.default_rng(4).normal(1, 1.5, PATIENTS.size)


def test_confidence_is_the_logit_of_the_right_class() -> None:
    logits = np.array([[2.0, 0.5, -1.0], [0.0, 3.0, 3.0]])
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    p = chance[[0, 1], [0, 2]]
    assert confidence(logits, np.array([0, 2])) == pytest.approx(np.log(p / (1 - p)))


def test_confidence_keeps_its_digits_where_the_chance_is_one() -> None:
    assert confidence(np.array([[60.0, 0.0]]), np.array([0])) == pytest.approx([60.0])


def test_lira_equals_the_plain_sum_over_a_patients_films(
    references: References, target: np.ndarray
) -> None:
    inside = MEMBERS[:, PATIENTS]
    conf = references.confidence
    squares = {True: [], False: []}
    means = {True: [], False: []}
    for film in range(PATIENTS.size):
        for side in (True, False):
            values = conf[inside[:, film] == side, film]
            means[side].append(values.mean())
            squares[side] += list((values - values.mean()) ** 2)
    degrees = {s: len(squares[s]) - PATIENTS.size for s in (True, False)}
    deviation = {s: math.sqrt(sum(squares[s]) / degrees[s]) for s in (True, False)}
    expected = np.zeros(4)
    for film, patient in enumerate(PATIENTS):
        with_it = norm.logpdf(target[film], means[True][film], deviation[True])
        without = norm.logpdf(target[film], means[False][film], deviation[False])
        expected[patient] += with_it - without
    assert lira(target, references, PATIENTS) == pytest.approx(expected)


def test_rmias_ratio_equals_the_plain_one(references: References, target: np.ndarray) -> None:
    def chance(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = np.zeros(4)
    for film, patient in enumerate(PATIENTS):
        prior = np.mean([chance(x) for x in references.confidence[:, film]])  # half in, half out
        expected[patient] += math.log(chance(target[film]) / prior)
    assert likelihood_ratio(target, references, PATIENTS) == pytest.approx(expected)


def test_the_ratio_of_strangers_takes_all_references_alike() -> None:
    answers, own = np.array([[0.0, 1.0], [2.0, -1.0]]), np.array([1.0, 0.5])
    prior = (1 / (1 + np.exp(-answers))).mean(0)
    expected = np.log(1 / (1 + np.exp(-own)) / prior)
    assert ratio_of_strangers(own, answers, np.array([0, 1])) == pytest.approx(expected)


def test_rmia_counts_the_strangers_that_are_outdone() -> None:
    rng = np.random.default_rng(0)
    ratio, strangers = rng.normal(size=50), rng.normal(size=20)
    won = [(r - strangers >= math.log(GAMMA)).mean() for r in ratio]
    score = rmia(ratio, strangers)
    assert np.floor(score * 20 + 1e-9) / 20 == pytest.approx(won)
    assert np.array_equal(np.argsort(score), np.argsort(ratio))  # no ties are left


def test_a_hopeless_film_leaves_every_score_finite(references: References) -> None:
    target = np.full(PATIENTS.size, -1e6)
    assert np.isfinite(lira(target, references, PATIENTS)).all()
    ratio = likelihood_ratio(target, references, PATIENTS)
    assert np.isfinite(ratio).all()
    assert np.isfinite(rmia(ratio, ratio)).all()


def test_references_with_nothing_to_compare_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing to compare"):
        References(np.zeros((2, 1)), np.array([[True], [True]]))


def test_a_patients_films_are_added_up() -> None:
    films = np.arange(7.0)
    assert of_patients(films, PATIENTS, 5).tolist() == [1.0, 2.0, 12.0, 6.0, 0.0]
