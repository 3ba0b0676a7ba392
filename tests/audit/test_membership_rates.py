"""Rates and their intervals: known answers, and how often they are wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from primia.audit.membership_rates import (
    Point,
    Trials,
    auc,
    clopper_pearson,
    point,
    surely_found,
)


def coins(rng: np.random.Generator, targets: int, patients: int) -> np.ndarray:
    return rng.random((targets, patients)) < 0.5


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [  # the published tables, and closed forms at the ends
        (5, 10, 0.1871, 0.8129),
        (1, 100, 0.000253, 0.0545),
        (0, 10, 0.0, 1 - 0.025**0.1),
        (10, 10, 0.025**0.1, 1.0),
        (0, 3000, 0.0, 1 - 0.025 ** (1 / 3000)),
    ],
)
def test_clopper_pearson_gives_the_known_answers(
    hits: int, of: int, low: float, high: float
) -> None:
    found = clopper_pearson(hits, of, 0.05)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize(("hits", "of"), [(-1, 10), (11, 10), (0, 0)])
def test_a_count_that_is_none_is_refused(hits: int, of: int) -> None:
    with pytest.raises(ValueError, match="not a count"):
        clopper_pearson(hits, of, 0.05)


def test_a_rate_is_not_measured_on_fewer_than_three_false_alarms() -> None:
    scores = np.arange(5998.0).reshape(2, 2999)
    members = np.zeros((2, 2999), bool)
    members[0] = True
    trials = Trials(scores, members)
    assert point(trials, 0.001) is None  # 2,999 non-members
    assert point(trials, 0.01) is not None


def test_the_threshold_is_the_nonmembers_own() -> None:
    members = np.array([[True] * 300 + [False] * 300])
    scores = np.concatenate([np.arange(300) + 150.5, np.arange(300)])[None]
    found = point(Trials(scores, members), 0.01)
    assert found == Point(found=154, inside=300, alarms=3, outside=300)  # above 296


def test_ties_at_the_threshold_find_nobody() -> None:
    members = np.array([[True] * 300 + [False] * 300])
    found = point(Trials(np.zeros((1, 600)), members), 0.01)
    assert found is not None
    assert (found.found, found.alarms) == (0, 0)


def test_a_perfect_attack_exceeds_a_small_epsilon_and_never_a_large_one() -> None:
    perfect = Point(found=1000, inside=1000, alarms=10, outside=1000)
    assert perfect.exceeds(0.0, 0.0, 1e-3)
    assert perfect.exceeds(1.0, 1e-5, 1e-3)
    assert not perfect.exceeds(math.log(100), 1e-5, 1e-3)  # e^epsilon times 1 % is all
    assert not perfect.exceeds(1e6, 1e-5, 1e-3)  # and no overflow


def test_by_chance_a_rate_is_exceeded_no_oftener_than_stated() -> None:
    rng = np.random.default_rng(5)
    error, runs, wrong = 0.05, 400, 0
    for _ in range(runs):
        members = coins(rng, 4, 200)
        at = point(Trials(rng.standard_normal(members.shape), members), 0.01)
        wrong += at is not None and at.exceeds(0.0, 0.0, error)
    assert wrong <= binom.ppf(1 - 1e-6, runs, error)


def test_auc_equals_the_count_of_all_pairs() -> None:
    rng = np.random.default_rng(6)
    members = coins(rng, 3, 40)
    scores = np.round(rng.standard_normal(members.shape) + members, 1)  # with ties
    inside, outside = scores[members], scores[~members]
    pairs = (inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean()
    found = auc(Trials(scores, members), 0.05)
    assert found is not None
    assert found.value == pytest.approx(pairs)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_the_interval_of_auc_covers_the_truth_as_often_as_it_says(shift: float) -> None:
    rng = np.random.default_rng(7)
    truth, runs, missed = norm.cdf(shift / math.sqrt(2)), 400, 0
    for _ in range(runs):
        members = coins(rng, 4, 100)
        trials = Trials(rng.standard_normal(members.shape) + shift * members, members)
        found = auc(trials, 0.05)
        assert found is not None
        missed += not found.low <= truth <= found.high
    assert missed <= binom.ppf(1 - 1e-6, runs, 0.06)


def test_trials_of_one_patient_that_repeat_each_other_narrow_no_interval() -> None:
    rng = np.random.default_rng(8)
    members = coins(rng, 1, 200)
    scores = rng.standard_normal(members.shape) + members
    once = auc(Trials(scores, members), 0.05)
    often = auc(Trials(np.repeat(scores, 16, 0), np.repeat(members, 16, 0)), 0.05)
    assert once is not None
    assert often is not None
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_members_told_apart_without_fault_still_have_an_interval() -> None:
    members = np.array([[True] * 10 + [False] * 10])
    found = auc(Trials(members.astype(float), members), 0.05)
    assert found is not None
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025**0.1)


def test_without_members_or_others_there_is_no_auc() -> None:
    assert auc(Trials(np.zeros((1, 5)), np.ones((1, 5), bool)), 0.05) is None
    assert auc(Trials(np.zeros((1, 5)), np.zeros((1, 5), bool)), 0.05) is None


def test_single_patients_that_are_found_each_time_are_counted_beside_their_chance() -> None:
    rng = np.random.default_rng(9)
    members = coins(rng, 16, 400)
    scores = rng.standard_normal(members.shape)
    scores[:, :20] = np.where(members[:, :20], 9.0, -9.0)  # twenty of four hundred
    found = surely_found(Trials(scores, members))
    assert found is not None
    assert 20 <= found.patients <= 22
    assert found.chance == pytest.approx(17 / 2**16)


def test_few_targets_find_nobody_surely() -> None:
    members = np.ones((7, 10), bool)
    assert surely_found(Trials(np.zeros((7, 10)), members)) is None
