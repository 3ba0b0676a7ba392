"""What the sites' shares of noise amount to, and that its price is an upper bound on the truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.errors import ConfigError
from primia.privacy import (
    DistributedDpSgd,
    DpSgd,
    calibrate_noise,
    epsilon,
    epsilon_gdp,
    epsilon_rdp,
    noise_share,
)
from primia.privacy.accounting import epsilon_roughly
from primia.privacy.mechanism import merge


@given(
    clip=st.floats(1e-3, 1e3),
    coordinates=st.integers(1, 20_000_000),
    z=st.floats(0.5, 20),
    honest=st.integers(1, 999),
)
def test_the_honest_shares_together_hold_the_noise_over_the_rounded_sensitivity(
    clip, coordinates, z, honest
):
    try:
        share = noise_share(
            clip_norm=clip, coordinates=coordinates, noise_multiplier=z, honest=honest
        )
    except ConfigError:
        assert (z * 101) ** 2 * coordinates / honest > 0.99e14
        return
    sensitivity = clip / share.step + math.sqrt(coordinates)
    assert share.sensitivity == pytest.approx(sensitivity, rel=1e-12)
    assert math.sqrt(honest * share.variance) >= z * sensitivity
    assert math.sqrt(coordinates) / sensitivity < 0.01  # what rounding costs
    assert share.variance >= 100


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0, 3))
def test_rounded_sums_of_neighbours_are_no_farther_apart_than_the_sensitivity(seed, scale):
    rng = np.random.default_rng(seed)
    share = noise_share(clip_norm=1.0, coordinates=50, noise_multiplier=1.0, honest=2)
    sums = rng.normal(size=50) * 10**scale * share.step
    patient = rng.normal(size=50)
    patient /= np.linalg.norm(patient)
    # The nearest to the bound: every coordinate just past a half, the patient pushing it over.
    for direction in (patient, np.sign(patient) / math.sqrt(50)):
        moved = np.rint((sums + direction) / share.step) - np.rint(sums / share.step)
        assert np.linalg.norm(moved) <= share.sensitivity


def discrete(variance, shift, x):
    weights = np.exp(-((x - shift) ** 2) / (2 * variance))
    return weights / weights.sum()


def convolved(variance, sites, x):
    """The sum of `sites` shares, by convolution."""
    one = discrete(variance, 0, x)
    total = one
    for _ in range(sites - 1):
        total = np.convolve(total, one, mode="same")
    return total / total.sum()


@pytest.mark.parametrize("sites", [2, 3, 10])
@pytest.mark.parametrize("variance", [0.5, 0.75, 1.0])
def test_a_sum_of_shares_is_as_near_to_a_discrete_gaussian_as_the_theorem_says(variance, sites):
    # Where the distance still shows in float64; at the smallest variance allowed it is 1e-428.
    tau = 10 * sum(math.exp(-2 * math.pi**2 * variance * k / (k + 1)) for k in range(1, sites))
    x = np.arange(-60, 61)
    ratio = convolved(variance, sites, x)[40:81] / discrete(variance * sites, 0, x)[40:81]
    near = abs(x[40:81]) < 6 * math.sqrt(variance * sites)
    assert abs(np.log(ratio[near])).max() <= tau
    assert abs(np.log(ratio[near])).max() > 1e-9, "the two are not the same"


def renyi(p, q, order):
    return math.log(np.exp(order * np.log(p) + (1 - order) * np.log(q)).sum()) / (order - 1)


@pytest.mark.parametrize("rate", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("order", [2, 3, 5, 8])
@pytest.mark.parametrize(("shift", "variance", "sites"), [(3, 3, 3), (9, 20, 4), (20, 100, 3)])
def test_both_directions_keep_the_bound_of_the_gaussian_at_whole_orders(
    rate, order, shift, variance, sites
):
    from dp_accounting.rdp.rdp_privacy_accountant import (
        _compute_rdp_poisson_subsampled_gaussian,
    )

    total = variance * sites
    reach = math.ceil(order * shift + 14 * math.sqrt(total))
    x = np.arange(-reach, reach + 1)
    without = convolved(variance, sites, x)
    with_patient = (1 - rate) * without + rate * np.roll(without, shift)
    keep = (without > 1e-280) & (np.roll(without, shift) > 1e-280)
    p, q = with_patient[keep], without[keep]
    (bound,) = _compute_rdp_poisson_subsampled_gaussian(rate, math.sqrt(total) / shift, [order])
    added, removed = renyi(p, q, order), renyi(q, p, order)
    assert removed <= added + 1e-9
    assert added == pytest.approx(bound, rel=1e-6)  # shifts by whole numbers reach the bound


def hockey_stick(p, q, eps):
    return float(np.maximum(p - math.exp(eps) * q, 0).sum())


@pytest.mark.parametrize("steps", [1, 3])
def test_the_price_is_not_below_the_exact_delta_of_a_small_case(steps):
    # One coordinate, three shares: every outcome of up to three steps written out.
    rate, shift, variance, sites, delta = 0.3, 6, 12, 3, 1e-4
    x = np.arange(-90, 91)
    without = convolved(variance, sites, x)
    with_patient = (1 - rate) * without + rate * np.roll(without, shift)
    p, q = with_patient, without
    for _ in range(steps - 1):
        p = np.multiply.outer(p, with_patient).ravel()
        q = np.multiply.outer(q, without).ravel()
    noise = math.sqrt(variance * sites) / shift
    eps = epsilon([DistributedDpSgd(rate, noise, steps)], delta)
    assert hockey_stick(p, q, eps) <= delta
    assert hockey_stick(q, p, eps) <= delta
    # With twice the price of noise the bound would be passed: the test can fail.
    cheap = epsilon([DistributedDpSgd(rate, 2 * noise, steps)], delta)
    assert hockey_stick(p, q, cheap) > delta


PLAIN, SHARED = DpSgd(0.1, 1.5, 200), DistributedDpSgd(0.1, 1.5, 200)


def test_shared_noise_is_priced_by_rdp_at_whole_orders_and_never_by_pld():
    delta = 1e-5
    assert (
        epsilon([SHARED], delta) == epsilon_rdp([SHARED], delta) == epsilon_roughly([SHARED], delta)
    )
    assert epsilon([SHARED], delta) >= epsilon_rdp([PLAIN], delta) > epsilon([PLAIN], delta)
    assert epsilon_gdp([SHARED], delta) == epsilon_gdp([PLAIN], delta)


def test_a_mixture_is_priced_by_rdp_as_a_whole_in_any_order():
    delta = 1e-5
    both = epsilon([PLAIN, SHARED], delta)
    assert both == epsilon([SHARED, PLAIN], delta)
    assert both == epsilon([DistributedDpSgd(0.1, 1.5, 400)], delta)
    assert both > max(epsilon([PLAIN], delta), epsilon([SHARED], delta))


def test_the_two_kinds_are_not_added_up_as_one():
    assert merge([PLAIN, SHARED, PLAIN]) == (SHARED, DpSgd(0.1, 1.5, 400))
    assert PLAIN != SHARED


@pytest.mark.parametrize("values", [(0.0, 1.0, 1), (0.1, 0.0, 1), (0.1, math.nan, 1), (0.1, 1, 0)])
def test_numbers_that_mean_nothing_are_refused_for_shared_noise_too(values):
    with pytest.raises(ValueError, match="must"):
        DistributedDpSgd(*values)


def test_noise_is_calibrated_for_the_kind_that_will_be_charged():
    noise = calibrate_noise(0.2, 100, 1e-4, 8.0, kind=DistributedDpSgd)
    assert noise > calibrate_noise(0.2, 100, 1e-4, 8.0)
    assert epsilon([DistributedDpSgd(0.2, noise, 100)], 1e-4) <= 8.0
    assert epsilon([DistributedDpSgd(0.2, noise - 0.001, 100)], 1e-4) > 8.0
