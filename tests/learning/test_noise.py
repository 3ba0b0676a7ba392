import math

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from seeded_stream import seeded_entropy

from primia.learning import noise
from primia.learning.noise import add_gaussian, standard_normal

N = 1_000_000
PAIRS = noise._PAIRS


def _samples(seed: int, sigma: float = 1.0, count: int = N) -> np.ndarray:
    target = torch.zeros(count)
    add_gaussian(target, sigma, seeded_entropy(seed))
    return target.numpy().astype(np.float64)


def _reference(key: bytes, count: int) -> np.ndarray:
    """What `add_gaussian` promises, made from another implementation of the cipher."""
    half = (count + 1) // 2
    first, second = [], []
    for chunk in range(math.ceil(half / PAIRS)):
        pairs = min(PAIRS, half - chunk * PAIRS)
        bits = AESGCM(key).encrypt(chunk.to_bytes(12, "big"), bytes(12 * pairs), None)[:-16]
        parts = iter([bits[: 8 * pairs], bits[8 * pairs :]])
        samples = standard_normal(2 * pairs, lambda size, parts=parts: next(parts))
        first.append(samples[:pairs])
        second.append(samples[pairs:])
    return np.concatenate(first + second)[:count]


def _kolmogorov(samples: np.ndarray, sigma: float = 1.0) -> float:
    """√n times the largest distance to the distribution function of N(0, sigma²)."""
    x = torch.from_numpy(np.sort(samples) / sigma)
    exact = torch.special.ndtr(x).numpy()
    steps = np.arange(samples.size + 1) / samples.size
    gap = max(np.abs(exact - steps[1:]).max(), np.abs(exact - steps[:-1]).max())
    return math.sqrt(samples.size) * gap


def _sums_of_uniforms(terms: int) -> np.ndarray:
    """Mean 0, variance 1 and nearly normal: the wrong law that tests should catch."""
    draws = np.random.default_rng(1).random((terms, N))
    return (draws.sum(0) - terms / 2) / math.sqrt(terms / 12)


# 2.7 is passed by a true Gaussian with probability 2 exp(-2 · 2.7²) = 9e-7.
KOLMOGOROV_LIMIT = 2.7
# A normal figure lies beyond 4.9 of its standard deviations with probability 1e-6.
DEVIATIONS = 4.9


def test_the_law_is_gaussian_and_another_sigma_or_law_is_rejected():
    assert _kolmogorov(_samples(1, sigma=3.0), 3.0) < KOLMOGOROV_LIMIT
    # At 2 % the distribution functions lie 0.0048 apart, times √n that is 4.8.
    assert _kolmogorov(_samples(2, sigma=3.06), 3.0) > KOLMOGOROV_LIMIT
    assert _kolmogorov(_samples(3, sigma=2.94), 3.0) > KOLMOGOROV_LIMIT
    assert _kolmogorov(_sums_of_uniforms(4)) > KOLMOGOROV_LIMIT


def test_the_mean_is_nought_and_a_hundredth_of_sigma_off_is_rejected():
    limit = DEVIATIONS / math.sqrt(N)
    assert abs(_samples(4).mean()) < limit
    assert abs((_samples(4) + 0.01).mean()) > limit


def test_the_variance_is_sigma_squared_and_a_sigma_1_percent_off_is_rejected():
    limit = DEVIATIONS * math.sqrt(2 / N)  # s²/σ² of n samples has standard deviation √(2/n)
    assert abs(_samples(4).var() - 1) < limit
    assert abs(_samples(5, sigma=1.01).var() - 1) > limit
    assert abs(_samples(6, sigma=0.99).var() - 1) > limit


def test_the_kurtosis_is_3_and_that_of_a_sum_of_twelve_uniforms_is_rejected():
    limit = DEVIATIONS * math.sqrt(96 / N)  # the variance of x⁴ is 105 - 9
    assert abs((_samples(4) ** 4).mean() - 3) < limit
    assert abs((_sums_of_uniforms(12) ** 4).mean() - 3) > limit


def _dependence(x: np.ndarray, y: np.ndarray) -> float:
    """The larger of the correlations of x with y and of x² with y², in standard deviations."""
    squares = (x**2 - 1) * (y**2 - 1) / 2
    return math.sqrt(x.size) * max(abs(np.mean(x * y)), abs(np.mean(squares)))


def test_pairs_that_share_a_radius_are_independent():
    x = _samples(7)
    assert _dependence(x[: N // 2], x[N // 2 :]) < DEVIATIONS  # false alarm 2e-6
    # An angle that takes four values only would leave x and y uncorrelated, their squares not.
    radius = np.hypot(x[: N // 2], x[N // 2 :])
    turn = np.random.default_rng(2).integers(0, 4, N // 2) * (math.pi / 2) + 0.3
    assert _dependence(radius * np.cos(turn), radius * np.sin(turn)) > DEVIATIONS


@pytest.mark.parametrize("lag", [1, 2, 7, PAIRS])
def test_neighbours_and_chunks_are_independent(lag):
    x = _samples(8)
    assert _dependence(x[:-lag], x[lag:]) < DEVIATIONS  # false alarm 2e-6 for each lag


def test_the_radius_and_the_angle_of_a_pair_are_independent():
    x = _samples(9)
    cosine, sine = x[: N // 2], x[N // 2 :]
    radius = (cosine**2 + sine**2 - 2) / 2  # mean 0, variance 1
    for harmonic in (1, 2, 4):
        wave = math.sqrt(2) * np.cos(harmonic * np.arctan2(sine, cosine))
        assert abs(np.mean(radius * wave)) < DEVIATIONS / math.sqrt(N // 2)


@pytest.mark.parametrize("count", [1, 2, 3, 1000, 2 * PAIRS, 2 * PAIRS + 1, 6 * PAIRS - 5])
def test_samples_agree_with_the_float64_reference_to_4_units_in_the_last_place(count):
    key = seeded_entropy(10)(32)
    target = torch.zeros(count)
    add_gaussian(target, 1.0, lambda size: key)
    half = (count + 1) // 2
    exact = _reference(key, 2 * half)  # of an odd count the last sine is left over
    radius = np.hypot(exact[:half], exact[half:])
    bound = 2.0**-21 * np.concatenate([radius, radius])
    assert (np.abs(target.numpy() - exact[:count]) <= bound[:count]).all()


def _from_words(words: list[int], turns: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Radius and angle the fast path makes of the given words."""
    pairs = noise._Pairs(torch.device("cpu"))
    bits = np.array(words, "<i8").tobytes() + np.array(turns, "<i4").tobytes()
    pairs.stream[: len(bits)] = torch.frombuffer(bytearray(bits), dtype=torch.uint8)
    radius, angle = pairs.polar(len(words))
    return radius.numpy().astype(np.float64), angle.numpy().astype(np.float64)


def test_the_tail_reaches_where_a_gaussian_has_1e_20_left_and_not_24_bit_uniforms():
    radius, _ = _from_words([0, 1, -1, 1 << 10], [0] * 4)
    assert radius[0] == pytest.approx(math.sqrt(2 * 64 * math.log(2)), rel=1e-7)
    assert radius[0] > 9.4 > 8.5 > 5.77
    assert (radius > 8.5).all()
    assert standard_normal(2, bytes)[0] == pytest.approx(radius[0], rel=1e-7)


def test_a_whole_stream_of_zero_bytes_adds_the_largest_noise_and_stays_finite(monkeypatch):
    def draw(self, key, chunk, count):
        self.stream.zero_()

    monkeypatch.setattr(noise._Pairs, "draw", draw)
    target = torch.zeros(10)
    add_gaussian(target, 2.0)
    assert target.tolist() == pytest.approx([2 * 9.4193] * 5 + [0] * 5, rel=1e-4)


def test_the_radius_keeps_its_digits_from_the_far_tail_to_nought():
    words = [1 << k for k in range(63)] + [(1 << 63) - (1 << k) for k in range(10, 62)]
    radius, _ = _from_words(words, [0] * len(words))
    u = [(abs(w) / 2**63, (2**63 - abs(w)) / 2**63) for w in words]
    exact = [math.sqrt(-2 * (math.log(a) if a < 0.5 else math.log1p(-b))) for a, b in u]
    assert radius[10:] == pytest.approx(exact[10:], rel=2.0**-22)
    # Beyond 8.6 σ the summand that keeps u above 0 shows; it never makes the tail longer.
    assert radius[:10] == pytest.approx(exact[:10], rel=0.004)
    assert (radius[:10] <= np.array(exact[:10]) * (1 + 2.0**-22)).all()
    assert (np.diff(radius[:63]) < 0).all()
    # 2**-53 from 1 and nearer, u is 1: nought, with probability 2**-53, and never NaN.
    assert _from_words([(1 << 63) - 1, -(1 << 63)], [0, 0])[0].tolist() == [0, 0]


@settings(max_examples=200, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_no_bits_give_infinity_or_nan_and_all_agree_with_the_reference(word, turn):
    radius, angle = _from_words([word], [turn])
    parts = iter([np.array([word], "<i8").tobytes(), np.array([turn], "<i4").tobytes()])
    exact = standard_normal(2, lambda size: next(parts))
    found = radius * np.array([math.cos(angle[0]), math.sin(angle[0])])
    assert np.isfinite(found).all()
    assert found == pytest.approx(exact, abs=2.0**-21 * np.hypot(*exact) + 1e-12)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 2 * PAIRS - 1, 2 * PAIRS, 2 * PAIRS + 3])
def test_every_element_gets_noise_of_its_own_at_any_length(count):
    target = torch.zeros(count)
    add_gaussian(target, 1.0, seeded_entropy(8))
    assert torch.unique(target).numel() >= count * 0.99  # float32 repeats a few by chance
    assert not (target == 0).any()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, PAIRS), max_size=8), st.integers(1, 4))
def test_tensors_in_a_sequence_get_each_the_noise_of_their_place(sizes, threads):
    whole = torch.zeros(sum(sizes))
    add_gaussian(whole, 1.0, seeded_entropy(11))
    parts = [torch.zeros(size) for size in sizes]
    add_gaussian(parts, 1.0, seeded_entropy(11), threads=threads)
    joined = torch.cat([*parts, torch.zeros(0)])
    # Once each: twice would be off by a whole sample. The last digit may differ where a vector
    # instruction gives way to a scalar one.
    assert torch.allclose(joined, whole, rtol=2e-7, atol=0)


def test_the_number_of_threads_changes_nothing():
    results = []
    for threads in (1, 2, 3, 16):
        target = torch.ones(9 * PAIRS + 5)
        add_gaussian(target, 1.0, seeded_entropy(12), threads=threads, scale=0.5)
        results.append(target)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_two_calls_share_no_noise_even_when_other_entropy_is_drawn_between():
    a, b = torch.zeros(4 * PAIRS), torch.zeros(4 * PAIRS)
    entropy = seeded_entropy(13)
    add_gaussian(a, 1.0, entropy)
    add_gaussian(b, 1.0, entropy)
    assert torch.isin(a, b).double().mean() < 0.05  # by chance, as float32 values are few
    assert _dependence(a.double().numpy(), b.double().numpy()) < DEVIATIONS


def test_noise_is_from_the_operating_system_unless_told_otherwise():
    a, b = torch.full((1000,), 5.0), torch.full((1000,), 5.0)
    add_gaussian(a, 1.0)
    add_gaussian(b, 1.0)
    assert abs(float(a.mean()) - 5) < DEVIATIONS / math.sqrt(1000)
    assert not torch.equal(a, b)


def test_the_sum_is_scaled_after_the_noise_is_added():
    plain, scaled = torch.full((3, 999), 5.0), torch.full((3, 999), 5.0)
    add_gaussian(plain, 2.0, seeded_entropy(14))
    add_gaussian(scaled, 2.0, seeded_entropy(14), scale=1 / 30)
    assert torch.equal(scaled, plain * (1 / 30))


def test_sigma_0_only_scales_and_draws_nothing():
    def entropy(size: int) -> bytes:
        raise AssertionError("drawn")

    targets = [torch.full((3,), 5.0), torch.full((2, 2), 4.0, dtype=torch.float64)]
    add_gaussian(targets, 0.0, entropy, scale=0.5)
    assert targets[0].tolist() == [2.5] * 3
    assert targets[1].tolist() == [[2.0] * 2] * 2


def test_one_key_of_32_bytes_is_drawn_for_each_call():
    asked = []

    def entropy(size: int) -> bytes:
        asked.append(size)
        return bytes(size)

    add_gaussian([torch.zeros(5), torch.zeros(3 * PAIRS)], 1.0, entropy, threads=2)
    assert asked == [32]


def test_float64_gets_the_noise_of_float32_and_shows_no_digit_below_it():
    start = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    narrow, wide = start.float(), start.clone()
    add_gaussian(narrow, 1.0, seeded_entropy(15))
    add_gaussian(wide, 1.0, seeded_entropy(15))
    assert torch.equal(wide, narrow.double())


def test_a_parameter_that_requires_a_gradient_is_noised_in_place():
    weight = torch.nn.Parameter(torch.zeros(10))
    add_gaussian(weight, 1.0)
    assert (weight != 0).all()
    assert weight.requires_grad


@pytest.mark.parametrize("sigma", [-1.0, math.nan, math.inf])
def test_a_sigma_that_is_no_deviation_is_refused_and_changes_nothing(sigma):
    target = torch.zeros(3)
    with pytest.raises(ValueError, match="finite"):
        add_gaussian(target, sigma)
    assert (target == 0).all()


def test_half_precision_and_integers_are_refused():
    for dtype in (torch.float16, torch.bfloat16, torch.int64):
        with pytest.raises(TypeError, match="float32"):
            add_gaussian(torch.zeros(3, dtype=dtype), 1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("threads", [1, 4])
def test_on_a_cuda_device_the_noise_is_that_of_the_processor(threads):
    sizes = [3 * PAIRS + 1, 5, 2 * PAIRS]
    here = [torch.ones(size) for size in sizes]
    there = [torch.ones(size, device="cuda") for size in sizes]
    add_gaussian(here, 1.0, seeded_entropy(16), scale=0.5)
    add_gaussian(there, 1.0, seeded_entropy(16), scale=0.5, threads=threads)
    for a, b in zip(here, there, strict=True):
        assert torch.allclose(a, b.cpu(), rtol=1e-6, atol=1e-5)
