"""What luck would do is what a simulation of luck does."""

from __future__ import annotations

import numpy as np
import pytest

from primia.audit.chance import luck_of_ranks, luck_of_wins


def test_the_luck_of_ranks_is_rarely_small_when_ranks_are_guesses() -> None:
    draws = np.random.default_rng(0).integers(1, 257, (4000, 6))
    lucks = np.array([luck_of_ranks(row.tolist(), 256) for row in draws])
    for level in (0.01, 0.05, 0.2):
        # 4000 draws: six deviations above the level
        assert (lucks <= level).mean() <= level + 6 * (level / 4000) ** 0.5


@pytest.mark.parametrize("ranks", [[1, 200, 240, 130], [20, 30, 25, 40, 35]])
def test_one_film_named_outright_or_a_trace_in_all_is_no_luck(ranks: list[int]) -> None:
    assert luck_of_ranks(ranks, 256) < 0.05


def test_ranks_of_the_middle_and_no_ranks_are_luck() -> None:
    assert luck_of_ranks([128, 130, 120, 140], 256) > 0.5
    assert luck_of_ranks([], 256) == 1.0


def test_the_sum_of_two_ranks_is_counted_as_by_hand() -> None:
    pairs = [(a, b) for a in range(1, 5) for b in range(1, 5)]
    for first, second in pairs:
        low = sum(a + b <= first + second for a, b in pairs) / 16
        best = 1 - (1 - min(first, second) / 4) ** 2
        assert luck_of_ranks([first, second], 4) == pytest.approx(min(1, 2 * min(low, best)))


def test_the_luck_of_wins_is_the_tail_of_a_fair_coin() -> None:
    assert luck_of_wins(3, 0) == pytest.approx(1 / 8)
    assert luck_of_wins(2, 1) == pytest.approx(1 / 2)
    assert luck_of_wins(0, 5) == luck_of_wins(0, 0) == 1
