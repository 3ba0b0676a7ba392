from __future__ import annotations

import pytest

from primia.report import words


@pytest.mark.parametrize(
    ("epsilon", "shown"),
    [(7.951, "7.96"), (8.0, "8.00"), (0.1 + 0.2, "0.30"), (1e-6, "0.01"), (None, "–")],
)
def test_epsilon_is_never_shown_smaller_than_it_is(epsilon: float | None, shown: str) -> None:
    assert words.epsilon_text(epsilon) == shown


@pytest.mark.parametrize(("delta", "shown"), [(1e-4, "1×10⁻⁴"), (2.5e-6, "2.5×10⁻⁶"), (None, "–")])
def test_delta_is_written_as_a_power_of_ten(delta: float | None, shown: str) -> None:
    assert words.delta_text(delta) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (7384, "2 h 03 min"), (None, "–")],
)
def test_durations_are_in_the_units_that_matter(seconds: float | None, shown: str) -> None:
    assert words.duration_text(seconds) == shown


def test_outside_text_cannot_steer_the_display_or_flood_it() -> None:
    assert words.clean("a\x1b[31m\u202eb\nc") == "a\ufffd[31m\ufffdb c"
    assert len(words.clean("x" * 10_000)) == words.MAX_TEXT
