from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from primia.federation.contribution import Aggregate
from primia.federation.robust import combine, has_majority, trimmed_groups, trimmed_mean

VALUES = st.floats(-1e6, 1e6, width=32)
MEANS = st.tuples(st.integers(3, 14), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=VALUES)
)


def plain_trimmed_mean(means: np.ndarray, trim: int) -> list[float]:
    kept = [sorted(column)[trim : len(column) - trim] for column in means.T.tolist()]
    return [sum(column) / len(column) for column in kept]


@given(means=MEANS)
def test_trimmed_mean_is_that_of_the_definition(means: np.ndarray) -> None:
    trim = trimmed_groups(len(means))
    np.testing.assert_allclose(
        trimmed_mean(means, trim), plain_trimmed_mean(means, trim), rtol=1e-12, atol=1e-9
    )


def test_trimmed_mean_is_the_same_whatever_the_chunks() -> None:
    means = np.random.default_rng(3).normal(size=(5, 70_001))
    expected = np.sort(means, axis=0)[1:4].mean(axis=0)
    np.testing.assert_array_equal(trimmed_mean(means, 1), expected)


@given(honest=MEANS, data=st.data())
def test_poisoned_groups_up_to_the_trim_keep_the_mean_within_the_honest_range(
    honest: np.ndarray, data: st.DataObject
) -> None:
    groups = len(honest)
    trim = trimmed_groups(groups)
    means = honest.copy()
    for poisoned in data.draw(st.sets(st.integers(0, groups - 1), max_size=trim)):
        means[poisoned] = data.draw(arrays(np.float64, honest.shape[1], elements=VALUES))
        honest[poisoned] = np.nan
    found = trimmed_mean(means, trim)
    slack = 1e-9 * (1 + np.abs(found))
    assert (found >= np.nanmin(honest, axis=0) - slack).all()
    assert (found <= np.nanmax(honest, axis=0) + slack).all()


@pytest.mark.parametrize(("groups", "trim"), [(3, 1), (5, 1), (8, 1), (9, 2), (13, 3), (333, 83)])
def test_a_quarter_of_the_other_groups_is_left_out_at_each_end(groups: int, trim: int) -> None:
    assert trimmed_groups(groups) == trim
    assert groups - 2 * trim >= groups // 2 or groups == 3


def test_trimming_everything_away_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves nothing of 2 groups"):
        trimmed_mean(np.zeros((2, 3)), 1)


def test_groups_are_combined_by_trimmed_mean_and_everything_counted_by_sum() -> None:
    parts = [
        Aggregate(np.array([value]), weight, np.array([weight, 1]), votes)
        for value, weight, votes in [(1.0, 3, 3), (-50.0, 4, 0), (2.0, 3, 2)]
    ]
    found = combine(parts)
    assert found.mean_update.tolist() == [1.0]
    assert (found.weight, found.metrics.tolist(), found.votes) == (10, [10, 3], 5)
    assert combine(parts[:1]) is parts[0]


@pytest.mark.parametrize(
    ("votes", "contributors", "accepted"), [(2, 3, True), (1, 3, False), (2, 4, False)]
)
def test_half_is_no_majority(votes: int, contributors: int, accepted: bool) -> None:
    assert has_majority(votes, contributors) is accepted
