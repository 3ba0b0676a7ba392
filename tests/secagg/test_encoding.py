from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from primia.errors import RoundFailed
from primia.secagg.encoding import (
    COUNT_LIMIT,
    decode_counts,
    decode_sum,
    encode,
    encode_counts,
    encoding_step,
    fits,
    largest,
)
from primia.secagg.masks import expand_mask

FALSE_ALARM_SIGMAS = 4.9  # a true mean lies further off with probability 1e-6
BITS = st.integers(8, 30)
RANGES = st.floats(1e-3, 1e6)


def fixed(count: int) -> bytes:
    return hashlib.shake_256(b"entropy").digest(count)


def largest_bits(sites: int, ring_bits: int) -> int:
    """The most bits with which that many sites still fit."""
    return max(b for b in range(2, 33) if fits(bits=b, sites=sites, ring_bits=ring_bits))


def encode_plainly(values, *, bits, value_range, uniform=None):
    """Whole-vector float64, no reuse: what `encode` must equal bit by bit."""
    unit = np.clip(values.astype(np.float64), -value_range, value_range)
    scaled = unit * (1 / (value_range / largest(bits)))
    whole = np.rint(scaled) if uniform is None else np.floor(scaled + uniform)
    clipped = int(np.count_nonzero(np.abs(values.astype(np.float64)) > value_range))
    return np.clip(whole, -largest(bits), largest(bits)).astype(np.int64).astype(np.uint32), clipped


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([1, 65535, 65536, 65537, 140_001]),
    st.sampled_from([np.float32, np.float64]),
    BITS,
    st.booleans(),
)
def test_the_chunked_encoder_equals_the_plain_reference(length, dtype, bits, at_random):
    words = np.frombuffer(hashlib.shake_256(b"values").digest(4 * length), "<i4")
    values = (words * 2.0**-31).astype(dtype)
    entropy, uniform = None, None
    if at_random:
        entropy, uniform = fixed, expand_mask(fixed(32), length) * 2.0**-32
    ring, clipped = encode(values, bits=bits, value_range=0.7, entropy=entropy)
    plain, outside = encode_plainly(values, bits=bits, value_range=0.7, uniform=uniform)
    assert np.array_equal(ring, plain)
    assert clipped == outside


def test_encoded_values_match_the_known_answers(vectors):
    v = vectors["encoding"]
    values = np.array([float(x) for x in v["values"]])
    ring, clipped = encode(values, bits=v["bits"], value_range=float(v["range"]))
    assert (ring.tolist(), clipped) == (v["words"], v["clipped"])


@pytest.mark.parametrize("value", [0.3, 7.3, -0.7, -5.7])
def test_stochastic_rounding_is_unbiased(value):
    """Frequency of rounding up, of a million draws: 4.9 σ, so one false alarm in 1e6 runs.

    Rounding to nearest and a frequency off by 0.01 would both be noticed.
    """
    count = 1_000_000
    values = np.full(count, value)
    ring, _ = encode(values, bits=16, value_range=float(largest(16)), entropy=fixed)  # step 1
    signed = ring.view(np.int32)
    assert set(np.unique(signed)) == {math.floor(value), math.floor(value) + 1}
    up = float((signed > value).mean())
    sigma = math.sqrt(0.3 * 0.7 / count)
    assert abs(up - 0.3) < FALSE_ALARM_SIGMAS * sigma
    assert abs(up - 0.31) > FALSE_ALARM_SIGMAS * sigma


def test_stochastic_rounding_leaves_whole_steps_alone_and_stays_in_bounds():
    values = np.array([0.0, 5.0, -9.0])
    ring, _ = encode(values, bits=16, value_range=float(largest(16)), entropy=fixed)
    assert ring.view(np.int32).tolist() == [0, 5, -9]
    for bits in (8, 24, 31, 32):
        for value_range in (0.1, 1 / 3, 4.0, 7e5):
            ends = np.full(100_000, value_range)
            ends[::2] *= -1
            ring, clipped = encode(ends, bits=bits, value_range=value_range, entropy=fixed)
            assert clipped == 0
            assert np.abs(ring.view(np.int32).astype(np.int64)).max() <= largest(bits)


def test_stochastic_rounding_draws_one_fresh_key():
    asked = []

    def entropy(count):
        asked.append(count)
        return bytes([len(asked)]) * count

    values = np.full(200_000, 0.5)
    first, second = (
        encode(values, bits=16, value_range=float(largest(16)), entropy=entropy)[0]
        for _ in range(2)
    )
    assert asked == [32, 32]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[:65536], first[65536 : 2 * 65536])


@settings(deadline=None)
@given(arrays(np.float64, st.integers(1, 50), elements=st.floats(-1, 1)), BITS, RANGES)
def test_a_value_comes_back_to_within_half_a_step(unit, bits, value_range):
    values = unit * value_range
    ring, clipped = encode(values, bits=bits, value_range=value_range)
    assert ring.dtype == np.uint32
    assert clipped == 0
    back = decode_sum(ring, bits=bits, value_range=value_range)
    half = encoding_step(bits=bits, value_range=value_range) / 2
    assert np.all(np.abs(back - values) <= half * (1 + 1e-9))


@settings(deadline=None)
@given(st.lists(arrays(np.float64, 5, elements=st.floats(-9, 9)), min_size=1, max_size=20), BITS)
def test_the_ring_sum_equals_the_sum_of_python_integers(vectors, bits):
    encoded = [encode(v, bits=bits, value_range=4.0)[0] for v in vectors]
    if not fits(bits=bits, sites=len(vectors)):
        return
    ring = np.zeros(5, np.uint32)
    for vector in encoded:
        ring += vector
    step = encoding_step(bits=bits, value_range=4.0)
    signed = [[w - 2**32 if w >= 2**31 else w for w in v.tolist()] for v in encoded]
    plain = [sum(column) * step for column in zip(*signed, strict=True)]
    assert decode_sum(ring, bits=bits, value_range=4.0, sites=len(vectors)).tolist() == plain


@pytest.mark.parametrize("ring_bits", [24, 32])
@pytest.mark.parametrize("sites", [2, 3, 100, 1000])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_extreme_values_of_the_most_sites_equal_the_big_integer_sum(ring_bits, sites, sign):
    bits = largest_bits(sites, ring_bits)
    one, _ = encode(np.full(3, sign * 4.0), bits=bits, value_range=4.0)
    total = np.zeros(3, np.uint32)
    for _ in range(sites):
        total += one
    total ^= np.uint32(0xFF000000 if ring_bits == 24 else 0)  # the top byte means nothing
    how = {"bits": bits, "value_range": float(largest(bits)), "ring_bits": ring_bits}  # step 1
    assert decode_sum(total, sites=sites, **how).tolist() == [sign * sites * largest(bits)] * 3


@pytest.mark.parametrize("ring_bits", [24, 32])
def test_one_site_more_than_fits_would_wrap(ring_bits):
    """So the bound is tight: it refuses nothing that would be exact."""
    bits = 10
    most = largest(ring_bits) // largest(bits)
    assert fits(bits=bits, sites=most, ring_bits=ring_bits)
    assert not fits(bits=bits, sites=most + 1, ring_bits=ring_bits)
    total = np.array([(most + 1) * largest(bits) % 2**32], np.uint32)
    value_range = float(largest(bits))
    decoded = decode_sum(total, bits=bits, value_range=value_range, ring_bits=ring_bits)
    assert decoded[0] < 0


def test_a_sum_that_could_wrap_is_said_not_to_fit():
    assert not fits(bits=30, sites=5)
    assert not fits(bits=24, sites=2, ring_bits=24)
    assert fits(bits=17, sites=100, ring_bits=24)
    assert not fits(bits=32, sites=2)
    assert fits(bits=32, sites=1)


def test_values_outside_the_range_are_clipped_and_counted():
    ring, clipped = encode(np.array([5.0, -5.0, 4.0, 0.0]), bits=16, value_range=4.0)
    assert clipped == 2
    assert decode_sum(ring, bits=16, value_range=4.0).tolist() == [4.0, -4.0, 4.0, 0.0]


def test_rounding_is_to_nearest_and_symmetric():
    step = encoding_step(bits=16, value_range=4.0)
    ring, _ = encode(np.array([0.6, -0.6, 0.4, -0.4]) * step, bits=16, value_range=4.0)
    assert ring.astype(np.int32).tolist() == [1, -1, 0, 0]


def test_chunks_join_without_a_seam():
    values = np.linspace(-4, 4, 200_001)
    ring, _ = encode(values.astype(np.float32), bits=24, value_range=4.0)
    plain = np.rint(values.astype(np.float32).astype(np.float64) / (4.0 / largest(24)))
    assert np.array_equal(ring.view(np.int32), plain.astype(np.int64))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="not finite"):
        encode(np.array([0.0, bad], np.float32), bits=16, value_range=1.0)


def test_masks_that_did_not_cancel_are_noticed_when_decoding():
    garbage = np.array([2**30], np.uint32)
    with pytest.raises(RoundFailed, match="3 sites"):
        decode_sum(garbage, bits=24, value_range=1.0, sites=3)
    garbage = np.array([2**22], np.uint32)
    for sign in (1, -1):
        with pytest.raises(RoundFailed, match="3 sites"):
            decode_sum(
                (sign * garbage.astype(np.int64)).astype(np.uint32),
                bits=16,
                value_range=1.0,
                ring_bits=24,
                sites=3,
            )


@settings(deadline=None)
@given(arrays(np.int64, st.integers(0, 30), elements=st.integers(0, COUNT_LIMIT)))
def test_counts_come_back_exactly(counts):
    assert np.array_equal(decode_counts(encode_counts(counts)), counts)


def test_the_largest_counts_of_a_hundred_sites_do_not_wrap():
    assert 1000 * COUNT_LIMIT < 2**32


@pytest.mark.parametrize(
    "bad", [np.array([-1]), np.array([COUNT_LIMIT + 1]), np.array([1.0]), np.array([[1]])]
)
def test_a_count_that_is_negative_too_large_or_no_integer_is_refused(bad):
    with pytest.raises(ValueError, match="counts"):
        encode_counts(bad)
