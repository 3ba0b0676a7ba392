import math
import struct

import numpy as np
import pytest
import torch
from seeded_stream import seeded_entropy

from primia.learning.noise import add_gaussian, standard_normal

N = 1_000_000


def _samples(seed: int, sigma: float = 1.0) -> np.ndarray:
    target = torch.zeros(N)
    add_gaussian(target, sigma, seeded_entropy(seed))
    return target.numpy().astype(np.float64)


def _kolmogorov(samples: np.ndarray, sigma: float) -> float:
    """√n times the largest distance to the distribution function of N(0, sigma²)."""
    x = torch.from_numpy(np.sort(samples) / sigma)
    exact = torch.special.ndtr(x).numpy()
    steps = np.arange(samples.size + 1) / samples.size
    gap = max(np.abs(exact - steps[1:]).max(), np.abs(exact - steps[:-1]).max())
    return math.sqrt(samples.size) * gap


# 2.7 is passed by a true Gaussian with probability 2 exp(-2 · 2.7²) = 9e-7.
KOLMOGOROV_LIMIT = 2.7


def test_noise_is_gaussian_and_a_sigma_off_by_2_percent_is_rejected():
    assert _kolmogorov(_samples(1, sigma=3.0), 3.0) < KOLMOGOROV_LIMIT
    # The distribution functions lie 0.0048 apart, times √n that is 4.8: nearly always rejected.
    assert _kolmogorov(_samples(2, sigma=3.06), 3.0) > KOLMOGOROV_LIMIT
    assert _kolmogorov(_samples(3, sigma=2.94), 3.0) > KOLMOGOROV_LIMIT


def test_the_variance_is_right_to_1_percent_and_one_2_percent_off_in_sigma_is_rejected():
    # s²/σ² of n samples has standard deviation √(2/n) = 0.0014: 5 of them is a false alarm of 6e-7.
    limit = 5 * math.sqrt(2 / N)
    assert abs(_samples(4).var() - 1) < limit
    assert abs(_samples(5, sigma=1.02).var() - 1) > limit
    assert abs(_samples(6, sigma=0.98).var() - 1) > limit


def test_samples_are_independent_of_their_neighbours():
    x = _samples(7)
    half = 1 << 15  # Box-Muller pairs of one chunk lie this far apart
    for lag in (1, 2, half):
        correlation = float(np.mean(x[:-lag] * x[lag:]))
        squares = float(np.mean((x[:-lag] ** 2 - 1) * (x[lag:] ** 2 - 1)) / 2)
        # Standard deviation 1/√n each; 5 of them, six figures: a false alarm of 4e-6.
        assert abs(correlation) < 5 / math.sqrt(N - lag)
        assert abs(squares) < 5 / math.sqrt(N - lag)


def test_the_tail_goes_beyond_what_24_bit_uniforms_can_reach():
    smallest = standard_normal(2, lambda size: bytes(size))  # all-zero words: u = 2**-53
    assert smallest[0] == pytest.approx(math.sqrt(2 * 53 * math.log(2)))
    assert smallest[0] > 8.5 > 5.77
    # 2**-24 is where float32 generators stop; the next smaller uniforms are all reachable.
    word = (1 << 27) << 11  # u = (2**27 + 1) · 2**-53, just below 2**-25
    beyond = standard_normal(2, lambda size: struct.pack("<QQ", word, 0))
    assert 5.77 < beyond[0] < 8.5


def test_largest_uniforms_stay_finite():
    assert np.isfinite(standard_normal(2, lambda size: b"\xff" * size)).all()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 65_536, 65_537])
def test_every_element_gets_its_own_noise_at_any_length(count):
    target = torch.zeros(count)
    add_gaussian(target, 1.0, seeded_entropy(8))
    assert torch.unique(target).numel() >= count * 0.99  # float32 repeats a few by chance
    assert not (target == 0).any()


def test_noise_is_added_to_what_is_there_and_never_the_same_twice():
    a, b = torch.full((1000,), 5.0), torch.full((1000,), 5.0)
    add_gaussian(a, 1.0)
    add_gaussian(b, 1.0)
    assert abs(float(a.mean()) - 5) < 0.2  # 6 standard deviations
    assert not (a == b).any()
