import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seeded_stream import seeded_entropy

from primia.learning.sampling import films_of, poisson_patients


def test_each_patient_is_drawn_with_the_stated_probability_and_independently(entropy):
    draws, patients, rate = 4000, 50, 0.3
    chosen = np.zeros((draws, patients))
    for row in chosen:
        row[poisson_patients(patients, rate, entropy)] = 1
    # 50 patients at 5 standard deviations: a false alarm of 3e-5. A rate of 0.34 is rejected.
    deviation = math.sqrt(rate * (1 - rate) / draws)
    assert np.abs(chosen.mean(0) - rate).max() < 5 * deviation < 0.04
    # A batch of fixed size would have variance 0; Poisson sampling has n q (1 - q) = 10.5.
    variance = chosen.sum(1).var() / (patients * rate * (1 - rate))
    assert abs(variance - 1) < 5 * math.sqrt(2 / draws)


def test_rate_one_draws_everybody_and_a_tiny_rate_may_draw_nobody(entropy):
    assert np.array_equal(poisson_patients(10, 1.0, entropy), np.arange(10))
    assert poisson_patients(10, 1e-12, entropy).size == 0
    assert poisson_patients(0, 0.5, entropy).size == 0


def test_the_rate_is_never_exceeded_at_the_boundary():
    def word(value: int):
        return lambda size: (value << 11).to_bytes(8, "little")

    edge = int(0.25 * 2**53)
    assert poisson_patients(1, 0.25, word(edge - 1)).size == 1
    assert poisson_patients(1, 0.25, word(edge)).size == 0


@given(
    owners=st.lists(st.integers(0, 9), min_size=1, max_size=40),
    drawn=st.sets(st.integers(0, 9)),
    limit=st.integers(1, 5),
)
def test_films_are_those_of_the_drawn_side_by_side_and_no_more_than_the_limit(owners, drawn, limit):
    patients = np.array(owners, np.int64)
    rows = films_of(np.array(sorted(drawn), np.int64), patients, limit, seeded_entropy(3))
    assert len(set(rows.tolist())) == rows.size
    for p in range(10):
        expected = min(limit, owners.count(p)) if p in drawn else 0
        assert np.count_nonzero(patients[rows] == p) == expected
    assert np.all(np.diff(patients[rows]) >= 0)


def test_every_film_of_a_patient_has_the_same_chance(entropy):
    patients = np.zeros(6, np.int64)
    counts = np.zeros(6)
    for _ in range(3000):
        counts[films_of(np.array([0]), patients, 2, entropy)] += 1
    # Chance 1/3 each; 5 standard deviations over 6 films: a false alarm of 3e-6.
    assert np.abs(counts / 3000 - 1 / 3).max() < 5 * math.sqrt(2 / 9 / 3000)


@pytest.mark.parametrize("limit", [1, 4])
def test_no_patient_drawn_gives_no_film(limit, entropy):
    assert films_of(np.empty(0, np.int64), np.arange(5), limit, entropy).size == 0
