"""Lower bounds on ε: known answers, and how often they are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from primia.audit.bounds import epsilon_of_mu, error_rate, fit_gaussian, rank_bound

GENERATOR = np.random.default_rng(0)  # fixed: no false alarms


def drawn(mu: float, count: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    included = GENERATOR.random(count) < 0.5
    return GENERATOR.standard_normal(count) + mu * included, included


def test_epsilon_of_mu_has_its_known_answers() -> None:
    assert epsilon_of_mu(1.0, 1e-5) == pytest.approx(4.377, abs=1e-3)
    assert epsilon_of_mu(0.0, 1e-5) == epsilon_of_mu(-1.0, 1e-5) == 0.0
    assert error_rate(3.09) == pytest.approx(1e-3, rel=0.01)


def test_the_gaussian_fit_is_above_the_truth_as_often_as_is_stated() -> None:
    above = [fit_gaussian(*drawn(1.0, 1000), z=1.645).lower > 1.0 for _ in range(1000)]
    assert 0.02 < np.mean(above) < 0.08  # stated: 0.05


def test_the_gaussian_fit_finds_a_tenth_less_noise_in_half_of_the_audits_of_5000_canaries() -> None:
    found = [fit_gaussian(*drawn(1 / 0.9, 5000), z=3.09).lower > 1.0 for _ in range(200)]
    assert 0.35 < np.mean(found) < 0.7


def test_the_rank_bound_lies_below_what_a_randomised_response_tells() -> None:
    """In or out is told right with probability e^ε / (1 + e^ε), ε = 2."""
    for _ in range(20):
        included = GENERATOR.random(2000) < 0.5
        right = GENERATOR.random(2000) < np.exp(2) / (1 + np.exp(2))
        scores = np.where(included == right, 1.0, -1.0) + 1e-6 * GENERATOR.standard_normal(2000)
        found = rank_bound(scores, included, guesses=2000, delta=1e-9, failure=1e-3)
        assert 1.5 < found < 2.0


def test_the_rank_bound_of_chance_alone_is_zero() -> None:
    assert rank_bound(*drawn(0.0, 1000), guesses=100, delta=1e-9, failure=1e-3) == 0.0
