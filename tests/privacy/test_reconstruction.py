"""The bound on rebuilding a film: known answers, and never below the exact figure."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.privacy import DistributedDpSgd, DpSgd, epsilon, reconstruction_bound
from primia.privacy.reconstruction import gaussian_reconstruction_bound


@pytest.mark.parametrize(
    ("mu", "prior", "expected"),
    [
        (0.0, 1 / 256, 1 / 256),
        (0.3, 1 / 256, 0.009136),
        (1.0, 1 / 256, 0.048450),
        (1.0, 0.5, 0.841345),  # Φ(1)
        (10.0, 1 / 256, 1.0),
    ],
)
def test_the_gaussian_bound_has_its_known_answers(mu: float, prior: float, expected: float) -> None:
    assert gaussian_reconstruction_bound(mu, prior) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (10.0, 100), (10 / 3, 1), (0.5, 1)])
@pytest.mark.parametrize("prior", [1 / 256, 1 / 3000])
def test_without_sampling_the_profile_gives_the_closed_form(
    noise: float, steps: int, prior: float
) -> None:
    exact = gaussian_reconstruction_bound(math.sqrt(steps) / noise, prior)
    found = reconstruction_bound([DpSgd(1.0, noise, steps)], prior)
    assert exact * (1 - 1e-9) <= found <= exact * 1.01  # pessimistic, and tight


@given(
    rate=st.floats(0.01, 0.9),
    noise=st.floats(0.6, 4.0),
    prior=st.sampled_from([1 / 256, 1 / 50, 0.3]),
)
@settings(max_examples=25, deadline=None)
def test_one_sampled_step_is_never_bounded_below_what_the_best_test_reaches(
    rate: float, noise: float, prior: float
) -> None:
    """One step against its absence: reject above a threshold t, level Φ(-t/σ) = prior, with power
    (1 - q) prior + q Φ(Φ⁻¹(prior) + 1/σ) exactly, by Neyman and Pearson."""
    power = (1 - rate) * prior + rate * gaussian_reconstruction_bound(1 / noise, prior)
    found = reconstruction_bound([DpSgd(rate, noise, 1)], prior)
    assert power * (1 - 1e-9) <= found <= 3 * power


def test_sampling_makes_rebuilding_harder_and_steps_easier() -> None:
    bounds = [
        reconstruction_bound([DpSgd(rate, 1.0, steps)], 1 / 256)
        for rate, steps in [(0.01, 10), (0.1, 10), (0.1, 100), (1.0, 100)]
    ]
    assert bounds == sorted(bounds)
    assert 1 / 256 < bounds[0] < bounds[-1] <= 1


def test_noise_of_all_sites_is_priced_by_its_own_bound_which_is_looser() -> None:
    alone = reconstruction_bound([DpSgd(0.2, 1.5, 50)], 1 / 256)
    together = reconstruction_bound([DistributedDpSgd(0.2, 1.5, 50)], 1 / 256)
    assert alone <= together <= 1


def test_without_noise_or_without_privacy_there_is_no_bound() -> None:
    assert reconstruction_bound([], 0.01) == 0.01
    assert reconstruction_bound([DpSgd(0.1, 1.0, 5), None], 0.01) == 1.0
    assert epsilon([DpSgd(1.0, 0.01, 1)], 1e-5) > 1000
    assert reconstruction_bound([DpSgd(1.0, 0.01, 1)], 0.01) == pytest.approx(1.0)


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.1, math.nan])
def test_a_prior_that_is_no_chance_is_refused(prior: float) -> None:
    with pytest.raises(ValueError, match="prior"):
        reconstruction_bound([DpSgd(0.1, 1.0, 5)], prior)
