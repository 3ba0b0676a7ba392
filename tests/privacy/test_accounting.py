import math
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.errors import ConfigError
from primia.privacy import DpSgd, calibrate_noise, epsilon, epsilon_rdp

mechanisms = st.builds(
    DpSgd,
    sampling_rate=st.sampled_from([0.001, 0.02, 0.3, 1.0]),
    noise_multiplier=st.floats(0.5, 20),
    steps=st.integers(1, 3000),
)


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "known"),
    [  # δ = 1e-5; PLD figures that PRV (Gopi et al. 2021) confirms to four digits
        (0.02, 1.0, 2000, 5.6158),
        (0.01, 0.6, 100, 3.816),
        (0.02, 1.0, 1, 0.439),
        (0.1, 2.0, 500, 5.555),
        (0.05, 4.0, 2000, 2.321),
    ],
)
def test_epsilon_is_the_one_that_other_accountants_find(rate, noise, steps, known):
    assert epsilon([DpSgd(rate, noise, steps)], 1e-5) == pytest.approx(known, abs=2e-3)


def test_whole_batches_are_the_plain_gaussian_mechanism():
    # Balle & Wang, ICML 2018, theorem 8: the exact δ of a Gaussian with sensitivity 1.
    def exact_delta(eps: float, sigma: float) -> float:
        def phi(x: float) -> float:
            return 0.5 * math.erfc(-x / math.sqrt(2))

        a, b = 1 / (2 * sigma), eps * sigma
        return phi(a - b) - math.exp(eps) * phi(-a - b)

    found = epsilon([DpSgd(1.0, 20.0, 1000)], 1e-5)
    assert exact_delta(found, 20 / math.sqrt(1000)) == pytest.approx(1e-5, rel=1e-2)


def test_rounds_charged_one_by_one_cost_what_they_cost_together():
    apart = epsilon([DpSgd(0.36, 2.0, 10)] * 6, 1e-4)
    assert apart == epsilon([DpSgd(0.36, 2.0, 60)], 1e-4)


def test_different_mechanisms_compose_to_more_than_either_and_less_than_their_sum():
    a, b = DpSgd(0.1, 2.0, 200), DpSgd(0.3, 3.0, 50)
    together = epsilon([a, b], 1e-5)
    assert max(epsilon([a], 1e-5), epsilon([b], 1e-5)) < together
    assert together < epsilon([a], 1e-5) + epsilon([b], 1e-5)


def test_nothing_released_costs_nothing():
    assert epsilon([], 1e-5) == epsilon_rdp([], 1e-5) == 0


@given(mechanisms=st.lists(mechanisms, min_size=1, max_size=2))
@settings(max_examples=15, deadline=None)
def test_the_second_opinion_is_never_below_the_authority(mechanisms):
    assert epsilon_rdp(mechanisms, 1e-5) >= epsilon(mechanisms, 1e-5) - 1e-9


@given(mechanism=mechanisms, more=st.integers(1, 100))
@settings(max_examples=10, deadline=None)
def test_more_steps_never_cost_less(mechanism, more):
    longer = DpSgd(mechanism.sampling_rate, mechanism.noise_multiplier, mechanism.steps + more)
    # Grids of different width differ by up to a thousandth; each is an upper bound.
    assert epsilon([longer], 1e-5) >= epsilon([mechanism], 1e-5) * 0.999


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


def test_a_target_out_of_reach_is_refused_with_a_remedy():
    with pytest.raises(ConfigError, match="fewer steps or a larger epsilon"):
        calibrate_noise(1.0, 10**6, 1e-5, 1e-3)


def test_a_hopeless_plan_is_priced_in_bounded_time_and_memory():
    started = time.process_time()
    assert epsilon([DpSgd(1.0, 0.5, 1_000_000)], 1e-5) > 1e3
    assert epsilon([DpSgd(0.5, 0.5, 1000)], 1e-5) > 100
    assert time.process_time() - started < 10


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, math.nan])
def test_delta_outside_its_range_is_refused(delta):
    with pytest.raises(ValueError, match="delta"):
        epsilon([DpSgd(0.1, 1.0, 1)], delta)
    with pytest.raises(ValueError, match="delta"):
        epsilon_rdp([DpSgd(0.1, 1.0, 1)], delta)


def test_importing_privacy_loads_neither_torch_nor_the_accountant():
    code = (
        "import sys, primia.privacy;"
        "print([m for m in ('torch', 'dp_accounting', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
