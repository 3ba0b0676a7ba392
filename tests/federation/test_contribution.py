"""A round's sum says the weighted mean of the updates, the total weight and the summed counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.errors import RoundFailed
from primia.federation.contribution import Contribution
from primia.secagg.encoding import encoding_step

EQUAL = Contribution(parameters=50, metrics=4, bits=24, value_range=4.0)
BY_PATIENTS = Contribution(parameters=50, metrics=4, bits=24, value_range=4.0, max_weight=1000)


@given(seed=st.integers(0, 2**32 - 1), sites=st.integers(3, 20))
def test_the_mean_of_equal_sites_is_the_plain_mean_to_half_a_step(seed: int, sites: int) -> None:
    rng = np.random.default_rng(seed)
    updates = rng.uniform(-4, 4, (sites, 50)).astype(np.float32)
    counts = rng.integers(0, 1000, (sites, 4))
    total = np.zeros(EQUAL.layout.length, np.uint32)
    for update, count in zip(updates, counts, strict=True):
        ring, clipped = EQUAL.encode(update, weight=1, metrics=count)
        assert clipped == 0
        total += ring
    found = EQUAL.decode(total, contributors=sites)
    step = encoding_step(bits=24, value_range=4.0)
    assert np.abs(found.mean_update - updates.astype(np.float64).mean(0)).max() <= step / 2
    assert found.weight == sites
    assert np.array_equal(found.metrics, counts.sum(0))


def test_sites_weigh_by_their_masked_patient_counts() -> None:
    rng = np.random.default_rng(3)
    weights = np.array([10, 400, 1000])
    updates = rng.uniform(-1, 1, (3, 50)).astype(np.float32)
    total = np.zeros(BY_PATIENTS.layout.length, np.uint32)
    for update, weight in zip(updates, weights, strict=True):
        total += BY_PATIENTS.encode(update, weight=int(weight), metrics=np.zeros(4, np.int64))[0]
    found = BY_PATIENTS.decode(total, contributors=3)
    wanted = (updates.astype(np.float64) * weights[:, None]).sum(0) / weights.sum()
    assert found.weight == 1410
    # Half a step of each site, scaled back by max_weight / total weight.
    assert np.abs(found.mean_update - wanted).max() <= 1.1e-6


def test_an_evaluation_moves_nothing() -> None:
    ring, _ = EQUAL.encode(None, weight=1, metrics=np.arange(4))
    assert not EQUAL.decode(ring * np.uint32(3), contributors=3).mean_update.any()


def test_a_weight_outside_the_plan_is_refused_on_both_sides() -> None:
    with pytest.raises(ValueError, match="max_patients"):
        BY_PATIENTS.encode(None, weight=1001, metrics=np.zeros(4, np.int64))
    total = np.zeros(EQUAL.layout.length, np.uint32)
    total[50] = 4  # three sites of weight 1 cannot add up to this
    with pytest.raises(RoundFailed, match="did not follow"):
        EQUAL.decode(total, contributors=3)


def test_masks_that_did_not_cancel_are_noticed() -> None:
    noise = np.random.default_rng(1).integers(0, 2**32, EQUAL.layout.length, dtype=np.uint32)
    noise[50] = 3
    with pytest.raises(RoundFailed, match="discard"):
        EQUAL.decode(noise, contributors=3)
