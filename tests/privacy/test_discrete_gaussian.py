"""The sampler against the distribution it must have, and its rare path against fractions.

Tests on chance say how often they fail for a right sampler: 1e-6 unless said otherwise.
"""

import math
import os
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from primia.privacy import discrete_gaussian as module
from primia.privacy.discrete_gaussian import _geometric, below_exp, discrete_gaussian, exp_bounds

FALSE_ALARM = 1e-6


def probabilities(variance, reach):
    """P[X = x] of N_Z(0, variance) for x = -reach, ..., reach."""
    x = np.arange(-reach, reach + 1)
    weights = np.exp(-(x**2) / (2 * variance))
    return weights / weights.sum()


def misfit(samples, expected):
    """Pearson's statistic over its critical value; above 1 the samples are not of `expected`,
    probabilities of -reach..reach. Bins with fewer than 10 expected are pooled."""
    reach = len(expected) // 2
    counts = np.bincount(np.clip(samples, -reach, reach) + reach, minlength=len(expected))
    wanted = expected * samples.size
    rare = wanted < 10
    counts = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(wanted[~rare], max(wanted[rare].sum(), 1e-9))
    statistic = ((counts - wanted) ** 2 / wanted)[wanted >= 1].sum()
    return statistic / chi2.isf(FALSE_ALARM, (wanted >= 1).sum() - 1)


@pytest.mark.parametrize("variance", [1, 2, 7, 30, 1000])
def test_the_samples_have_the_probabilities_of_the_definition_and_of_no_other_variance(variance):
    samples = discrete_gaussian(variance, 400_000)
    reach = math.ceil(8 * math.sqrt(variance))
    assert misfit(samples, probabilities(variance, reach)) < 1
    assert misfit(samples, probabilities(1.05 * variance, reach)) > 1
    assert misfit(samples, probabilities(0.95 * variance, reach)) > 1


@pytest.mark.parametrize("variance", [10**6 + 1, 10**10, 10**14])
def test_at_large_variances_moments_and_tails_are_a_gaussians(variance):
    count = 400_000
    z = discrete_gaussian(variance, count) / math.sqrt(variance)
    five = 5 / math.sqrt(count)  # five deviations of a mean: false alarm 6e-7 each
    assert abs(z.mean()) < five
    assert abs((z**2).mean() - 1) < five * math.sqrt(2)  # 1.1 %, so 5 % would be seen
    assert abs((z**4).mean() - 3) < five * math.sqrt(96)
    for far in (0.5, 1, 2, 3, 4):
        share = math.erfc(far / math.sqrt(2))
        assert abs((abs(z) > far).mean() - share) < five * math.sqrt(share) + 5 / count


def test_the_sum_over_sites_is_a_discrete_gaussian_of_the_summed_variance():
    # Shares of variance 2 or more: the sum differs from one by 1e-7, far below what is seen here.
    total = sum(discrete_gaussian(2, 200_000) for _ in range(5))
    assert misfit(total, probabilities(10, 26)) < 1
    assert misfit(total, probabilities(8, 26)) > 1  # a site's share is missing


def test_neighbouring_samples_have_nothing_to_do_with_each_other():
    x = discrete_gaussian(10**6, 200_000) / 1000
    for lag in (1, 2, 7):
        assert abs((x[lag:] * x[:-lag]).mean()) < 5 / math.sqrt(x.size)  # false alarm 6e-7


def test_samples_follow_from_the_32_bytes_and_are_new_with_each_call():
    assert np.array_equal(
        discrete_gaussian(50, 1000, lambda n: bytes(n)), discrete_gaussian(50, 1000, bytes)
    )
    assert not np.array_equal(discrete_gaussian(10**8, 100), discrete_gaussian(10**8, 100))
    asked = []
    discrete_gaussian(50, 100_000, lambda n: asked.append(n) or os.urandom(n))
    assert asked == [32]


@pytest.mark.parametrize("count", [0, 1, 3, 100_001])
def test_exactly_as_many_samples_come_as_were_asked_for(count):
    assert discrete_gaussian(9, count).shape == (count,)
    assert discrete_gaussian(9, count).dtype == np.int64


@pytest.mark.parametrize("variance", [0, -1, 10**14 + 1])
def test_a_variance_that_cannot_be_drawn_is_refused(variance):
    with pytest.raises(ValueError, match="must be from 1"):
        discrete_gaussian(variance, 1)


def test_when_every_coin_is_undecided_the_law_is_the_same(monkeypatch):
    monkeypatch.setattr(module, "_SLACK", 0.99)  # of every coin some 99 % are in doubt
    thrown = []

    def counted(*arguments):
        thrown.append(1)
        return below_exp(*arguments)

    monkeypatch.setattr(module, "below_exp", counted)
    samples = discrete_gaussian(5, 10_000)
    assert len(thrown) > 5_000
    assert misfit(samples, probabilities(5, 18)) < 1
    assert misfit(samples, probabilities(7, 18)) > 1


def test_the_float_path_and_the_exact_path_decide_alike(monkeypatch):
    quick = discrete_gaussian(10**8 + 7, 3000, lambda n: b"k" * n)
    # With so little slack only what is truly in doubt is undecided; with much, everything is.
    monkeypatch.setattr(module, "_SLACK", 0.5)
    assert np.array_equal(discrete_gaussian(10**8 + 7, 3000, lambda n: b"k" * n), quick)


def by_series(gamma, terms=200):
    """Bounds of exp(-gamma) as fractions: the alternating series encloses its limit, once its
    terms fall."""
    term, total, sums = Fraction(1), Fraction(1), []
    for k in range(1, terms):
        term = -term * gamma / k
        total += term
        sums.append(total)
    return min(sums[-2:]), max(sums[-2:])


@given(
    gamma=st.fractions(min_value=0, max_value=30, max_denominator=10**9),
    bits=st.integers(8, 200),
)
def test_the_bounds_of_exp_enclose_it_closely(gamma, bits):
    low, high = exp_bounds(gamma, bits)
    below, above = by_series(gamma)
    assert low <= below * 2**bits
    assert above * 2**bits <= high
    assert high - low <= 3


@given(gamma=st.fractions(min_value=Fraction(1, 100), max_value=20, max_denominator=10**6))
def test_a_number_next_to_exp_is_decided_by_its_further_bits(gamma):
    below, _ = by_series(gamma, 400)
    digits = int(below * 2**191)  # 63 + 2 · 64 bits of exp(-gamma)
    first, rest = digits >> 128, digits & (2**128 - 1)
    for offset, answer in ((-5, True), (5, False)):
        bits = min(max(rest + offset, 0), 2**128 - 1)
        following = iter([bits >> 64, bits & (2**64 - 1), 0, 0])
        assert below_exp(first, 63, gamma, following.__next__) is answer


class Scripted:
    def __init__(self, *following):
        self.more = iter(following).__next__


@pytest.mark.parametrize("k", [1, 2, 10, 40])
def test_a_geometric_number_on_a_threshold_is_decided_by_its_further_bits(k):
    threshold = exp_bounds(Fraction(k), 63)[0]
    words = np.array([threshold << 1, (threshold + 1) << 1, (threshold - 1) << 1], np.uint64)
    assert _geometric(words, Scripted(0)).tolist() == [k, k - 1, k]
    assert _geometric(words, Scripted(2**64 - 1)).tolist() == [k - 1, k - 1, k]


def test_the_smallest_uniform_number_has_no_end_of_successes():
    # 0 in 63 bits, then 2^-64: exp(-44) = 2^-63.5 lies above, exp(-45) = 2^-64.9 below.
    assert _geometric(np.zeros(1, np.uint64), Scripted(2**63, 0)).tolist() == [44]
