"""A round's sum says the weighted mean of the updates, the summed counts and the votes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.errors import RoundFailed
from primia.federation.contribution import Contribution, SharedNoise
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


def test_a_light_site_is_clipped_to_the_range_before_it_is_weighed() -> None:
    """Afterwards it would seem to have said a smaller weight than it has."""
    update = np.zeros(50, np.float32)
    update[:2] = 7.0, -5.0
    total = np.zeros(BY_PATIENTS.layout.length, np.uint32)
    for _ in range(3):
        words, clipped = BY_PATIENTS.encode(update, weight=10, metrics=np.zeros(4, np.int64))
        assert clipped == 2
        total += words
    found = BY_PATIENTS.decode(total, contributors=3).mean_update
    assert found[:2] == pytest.approx([4.0, -4.0], abs=1e-4)
    for fault in (np.inf, np.nan):
        update[0] = fault
        with pytest.raises(ValueError, match="not finite"):
            BY_PATIENTS.encode(update, weight=10, metrics=np.zeros(4, np.int64))


@given(
    seed=st.integers(0, 2**32 - 1),
    weights=st.lists(st.integers(1, 1000), min_size=3, max_size=20),
    random=st.booleans(),
)
def test_no_honest_sum_is_refused_for_its_weights(
    seed: int, weights: list[int], random: bool
) -> None:
    terms = replace(BY_PATIENTS, stochastic=random)
    update = np.random.default_rng(seed).choice([-9, -4, 4, 9], 50).astype(np.float32)
    total = np.zeros(terms.layout.length, np.uint32)
    for weight in weights:
        total += terms.encode(update, weight=weight, metrics=np.zeros(4, np.int64))[0]
    found = terms.decode(total, contributors=len(weights)).mean_update
    assert np.abs(found - np.clip(update, -4, 4)).max() < 1e-2


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


# --- bounds on one site's update -----------------------------------------------------------------

BOUNDED = Contribution(
    parameters=50, metrics=4, bits=20, value_range=4.0, wire_bits=24, update_norm=0.5
)


def sum_of(contribution: Contribution, updates: list[np.ndarray], **more: object) -> np.ndarray:
    total = np.zeros(contribution.layout.length, np.uint32)
    for update in updates:
        total += contribution.encode(
            update.astype(np.float32), weight=1, metrics=np.zeros(4, np.int64), **more
        )[0]  # type: ignore[arg-type]
    return total


def test_a_long_update_is_scaled_down_and_a_short_one_is_left() -> None:
    rng = np.random.default_rng(4)
    direction = rng.normal(size=50)
    direction /= np.linalg.norm(direction)
    total = sum_of(BOUNDED, [direction * 3, direction * 0.1, direction * 0.5])
    found = BOUNDED.decode(total, contributors=3).mean_update
    assert np.abs(3 * found - direction * (0.5 + 0.1 + 0.5)).max() < 1e-4


def test_a_sum_longer_than_its_parts_may_be_is_discarded() -> None:
    lawful = sum_of(BOUNDED, [np.full(50, 0.5 / np.sqrt(50))] * 3)
    BOUNDED.decode(lawful, contributors=3)
    free = Contribution(parameters=50, metrics=4, bits=20, value_range=4.0, wire_bits=24)
    poisoned = sum_of(BOUNDED, [np.zeros(50)] * 2) + sum_of(free, [np.full(50, 0.4)])
    with pytest.raises(RoundFailed, match="norm"):
        BOUNDED.decode(poisoned, contributors=3)


def test_the_bound_follows_the_weights_of_the_sum() -> None:
    terms = Contribution(
        parameters=50, metrics=4, bits=20, value_range=4.0, max_weight=10, update_norm=0.5
    )
    update = np.full(50, 0.5 / np.sqrt(50), np.float32)
    total = terms.encode(update, weight=2, metrics=np.zeros(4, np.int64))[0]
    assert np.allclose(terms.decode(total, contributors=1).mean_update, update, atol=1e-4)
    heavier = terms.encode(update, weight=10, metrics=np.zeros(4, np.int64))[0]
    heavier[terms.layout.slice("weight")] = 2  # a site that says it is light
    with pytest.raises(RoundFailed, match="norm"):
        terms.decode(heavier, contributors=1)


def test_what_lies_above_the_wires_bits_means_nothing() -> None:
    total = sum_of(BOUNDED, [np.full(50, 0.05)] * 3)
    whole = BOUNDED.decode(total, contributors=3).mean_update
    total[:50] ^= np.uint32(0xAB000000)
    assert np.array_equal(BOUNDED.decode(total, contributors=3).mean_update, whole)


def test_random_rounding_has_the_update_as_its_mean() -> None:
    coarse = Contribution(parameters=20_000, metrics=4, bits=8, value_range=1.0, stochastic=True)
    step = encoding_step(bits=8, value_range=1.0)
    update = np.full(20_000, 0.3 * step, np.float32)
    ring, _ = coarse.encode(update, weight=1, metrics=np.zeros(4, np.int64))
    found = coarse.decode(ring, contributors=1).mean_update
    # A coin of 0.3, 20,000 times: five deviations, false alarm 6e-7.
    assert found.mean() == pytest.approx(0.3 * step, abs=5 * step * np.sqrt(0.21 / 20_000))
    assert set(np.rint(found / step)) == {0.0, 1.0}


def test_votes_are_counted() -> None:
    total = np.zeros(EQUAL.layout.length, np.uint32)
    for vote in (True, False, True, True):
        total += EQUAL.encode(None, weight=1, metrics=np.zeros(4, np.int64), vote=vote)[0]
    assert EQUAL.decode(total, contributors=4).votes == 3


# --- noise that the sites share ------------------------------------------------------------------

D = 4000
LEARNS = np.arange(D) % 4 != 0


def shared(variance: int = 10_000, bits: int = 16) -> Contribution:
    return Contribution(
        parameters=D,
        metrics=4,
        bits=bits,
        value_range=32.767,  # a step of a thousandth
        wire_bits=24,
        update_norm=20.0,
        shared=SharedNoise(variance, gain=-0.5, learns=LEARNS),
    )


def gaussian(variance: int, count: int) -> np.ndarray:
    return np.rint(np.random.default_rng().normal(0, np.sqrt(variance), count)).astype(np.int64)


def gradient(rng: np.random.Generator) -> np.ndarray:
    found = rng.normal(size=D) * LEARNS
    return found / np.linalg.norm(found) * 10


def test_the_update_is_the_gain_times_the_mean_of_the_sums_and_the_sum_of_the_shares() -> None:
    rng = np.random.default_rng(6)
    sums = [gradient(rng) for _ in range(4)]
    silent = sum_of(shared(), sums, noise=lambda _, count: np.zeros(count, np.int64))
    found = shared().decode(silent, contributors=4).mean_update
    assert np.abs(found + 0.5 * np.mean(sums, axis=0)).max() <= 0.5 * 0.0005 + 1e-9
    noised = sum_of(shared(), sums, noise=gaussian)
    noise = shared().decode(noised, contributors=4).mean_update - found
    assert not noise[~LEARNS].any()
    # Four shares of 100 steps each, a thousandth long; times gain, over four sites. Relative spread
    # of a deviation over 3000 numbers is 1.3 %; five of them, false alarm 6e-7.
    assert noise[LEARNS].std() == pytest.approx(2 * 0.1 * 0.5 / 4, rel=0.065)


def test_a_site_draws_its_share_for_every_weight_that_learns_and_for_no_other() -> None:
    asked = []

    def draw(variance: int, count: int) -> np.ndarray:
        asked.append((variance, count))
        return np.full(count, -7, np.int64)

    zeros = np.zeros(D, np.float32)
    ring, _ = shared().encode(zeros, weight=1, metrics=np.zeros(4, np.int64), noise=draw)
    assert asked == [(10_000, LEARNS.sum())]
    assert set(ring[:D][LEARNS].tolist()) == {2**32 - 7}
    assert not ring[:D][~LEARNS].any()


def test_an_update_never_leaves_without_the_noise_that_the_plan_shares() -> None:
    update = np.zeros(D, np.float32)
    with pytest.raises(ValueError, match="noise"):
        shared().encode(update, weight=1, metrics=np.zeros(4, np.int64))
    with pytest.raises(ValueError, match="noise"):
        EQUAL.encode(update[:50], weight=1, metrics=np.zeros(4, np.int64), noise=gaussian)


def test_an_evaluation_draws_no_noise() -> None:
    ring, _ = shared().encode(None, weight=1, metrics=np.arange(4))
    assert not shared().decode(3 * ring, contributors=3).mean_update.any()


@pytest.mark.parametrize("tamper", ["one coordinate", "a little everywhere", "a still weight"])
def test_a_sum_beyond_the_sites_and_their_noise_is_discarded(tamper: str) -> None:
    rng = np.random.default_rng(8)
    total = sum_of(shared(), [gradient(rng) for _ in range(3)], noise=gaussian)
    shared().decode(total, contributors=3)
    learning = np.flatnonzero(LEARNS)
    if tamper == "one coordinate":
        total[learning[:1]] += np.uint32(3 * 32767 + 2 * 12 * 174)  # the noise there may be -12
    elif tamper == "a little everywhere":
        # 2.0 times √3000 coordinates is 110, where 3 · 20 and noise of 0.17 · √3000 may stand.
        total[learning] += np.uint32(2000)
    else:
        total[0] += np.uint32(1)
    with pytest.raises(RoundFailed, match="norm" if "little" in tamper else "noise"):
        shared().decode(total, contributors=3)


def test_a_projection_of_two_sums_brings_them_no_farther_apart() -> None:
    rng = np.random.default_rng(9)
    for _ in range(50):
        one = rng.normal(size=D) * rng.uniform(0, 2)
        other = one + rng.normal(size=D) * rng.uniform(0, 0.1)
        moved = shared()._scaled(one.astype(np.float32), 1.0) - shared()._scaled(
            other.astype(np.float32), 1.0
        )
        apart = np.linalg.norm(one.astype(np.float32) - other.astype(np.float32))
        assert np.linalg.norm(moved) <= apart * (1 + 1e-6)


@given(variance=st.integers(1, 10**10), sites=st.integers(3, 1000), wire=st.sampled_from([24, 32]))
def test_the_room_beside_the_noise_is_the_most_that_cannot_wrap(
    variance: int, sites: int, wire: int
) -> None:
    noise = SharedNoise(variance, -1.0, LEARNS)
    bits, most = noise.room(sites=sites, wire_bits=wire)
    ring = 2 ** (wire - 1) - 1
    band = 12 * noise.deviation(sites)
    if bits:
        assert most == 2 ** (bits - 1) - 1
        assert sites * most + band <= ring
    assert sites * (2**bits - 1) + band > ring or bits == wire or bits == 0
    if not bits:
        assert sites + band > ring
