import math

import pytest

from primia.errors import ConfigError
from primia.privacy import (
    DpSgd,
    accounting,
    calibrate_noise,
    calibrate_rate,
    calibrate_steps,
    epsilon,
)


@pytest.mark.parametrize(
    ("rate", "steps", "delta", "target"),
    [(0.36, 60, 1e-4, 8.0), (0.02, 2000, 1e-5, 3.0), (1.0, 10, 1e-5, 8.0)],
)
def test_calibrated_noise_is_the_smallest_that_keeps_the_target(rate, steps, delta, target):
    noise = calibrate_noise(rate, steps, delta, target)
    assert noise == round(noise, 3)
    assert epsilon([DpSgd(rate, noise, steps)], delta) <= target
    assert epsilon([DpSgd(rate, noise - 0.001, steps)], delta) > target


def test_calibration_stops_at_the_floor():
    assert calibrate_noise(0.01, 10, 1e-5, 50.0) == 0.5
    assert calibrate_noise(0.01, 10, 1e-5, 50.0, floor=0.8) == 0.8


@pytest.mark.parametrize(
    ("rate", "noise", "target"), [(0.02, 1.0, 5.6161), (1.0, 5.0, 8.0), (0.1, 2.0, 0.6)]
)
def test_calibrated_steps_are_the_most_that_keep_the_target(rate, noise, target):
    steps = calibrate_steps(rate, noise, 1e-5, target)
    assert epsilon([DpSgd(rate, noise, steps)], 1e-5) <= target
    assert epsilon([DpSgd(rate, noise, steps + 1)], 1e-5) > target


@pytest.mark.parametrize(
    ("noise", "steps", "target"), [(1.0, 2000, 5.6161), (4.0, 2000, 2.322), (2.0, 1, 0.1)]
)
def test_the_calibrated_rate_is_the_largest_millionth_that_keeps_the_target(noise, steps, target):
    rate = calibrate_rate(noise, steps, 1e-5, target)
    millionths = round(rate * 1e6)
    assert rate == millionths / 1e6
    assert epsilon([DpSgd(rate, noise, steps)], 1e-5) <= target
    assert epsilon([DpSgd((millionths + 1) / 1e6, noise, steps)], 1e-5) > target


def test_a_known_price_is_found_back_from_each_of_its_three_sides():
    # ε of rate 0.02, noise 1, 2000 steps at δ = 1e-5 is 5.61598
    assert calibrate_steps(0.02, 1.0, 1e-5, 5.616) == 2000
    assert calibrate_rate(1.0, 2000, 1e-5, 5.616) == 0.02
    assert calibrate_noise(0.02, 2000, 1e-5, 5.616) == 1.0


def test_more_room_than_the_scale_gives_its_end():
    assert calibrate_rate(20.0, 2, 1e-5, 8.0) == 1.0
    assert calibrate_steps(1.0, 1e4, 1e-5, 8.0) == 10_000_000


def test_a_target_out_of_reach_is_refused_with_a_remedy():
    with pytest.raises(ConfigError, match="fewer steps or a larger epsilon"):
        calibrate_noise(1.0, 10**6, 1e-5, 1e-3)
    with pytest.raises(ConfigError, match=r"does not allow one step.*more noise"):
        calibrate_steps(0.02, 1.0, 1e-5, 0.1)
    with pytest.raises(ConfigError, match="more noise, fewer steps"):
        calibrate_rate(0.5, 2000, 1e-8, 0.01)


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan])
def test_a_target_that_means_nothing_is_refused(target):
    with pytest.raises(ValueError, match="must be above 0"):
        calibrate_steps(0.1, 1.0, 1e-5, target)


def test_a_calibration_takes_a_bounded_number_of_prices(monkeypatch):
    asked = []
    price = accounting._pld
    monkeypatch.setattr(accounting, "_pld", lambda *a: asked.append(a) or price(*a))
    calibrate_steps(0.03, 1.1, 1e-5, 2.5)
    calibrate_rate(1.2, 300, 1e-5, 2.5)
    assert len(asked) <= 2 * 60
