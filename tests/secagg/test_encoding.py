from __future__ import annotations

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

BITS = st.integers(8, 30)
RANGES = st.floats(1e-3, 1e6)


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


@pytest.mark.parametrize(("bits", "sites"), [(30, 3), (24, 100), (25, 64), (8, 100)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_extreme_values_of_the_most_sites_do_not_wrap(bits, sites, sign):
    assert fits(bits=bits, sites=sites)
    one, _ = encode(np.full(3, sign * 4.0), bits=bits, value_range=4.0)
    total = np.zeros(3, np.uint32)
    for _ in range(sites):
        total += one
    decoded = decode_sum(total, bits=bits, value_range=4.0, sites=sites)
    assert np.allclose(decoded, sign * 4.0 * sites, rtol=1e-12)


def test_a_sum_that_could_wrap_is_said_not_to_fit():
    assert not fits(bits=30, sites=5)
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


@settings(deadline=None)
@given(arrays(np.int64, st.integers(0, 30), elements=st.integers(0, COUNT_LIMIT)))
def test_counts_come_back_exactly(counts):
    assert np.array_equal(decode_counts(encode_counts(counts)), counts)


def test_the_largest_counts_of_a_hundred_sites_do_not_wrap():
    assert 100 * COUNT_LIMIT < 2**32


@pytest.mark.parametrize(
    "bad", [np.array([-1]), np.array([COUNT_LIMIT + 1]), np.array([1.0]), np.array([[1]])]
)
def test_a_count_that_is_negative_too_large_or_no_integer_is_refused(bad):
    with pytest.raises(ValueError, match="counts"):
        encode_counts(bad)
