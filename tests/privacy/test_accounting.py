import math
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.errors import StateError
from primia.privacy import DpSgd, accounting, epsilon, epsilon_gdp, epsilon_rdp

mechanisms = st.builds(
    DpSgd,
    sampling_rate=st.floats(1e-4, 1) | st.sampled_from([1e-4, 0.001, 0.02, 0.3, 1.0]),
    noise_multiplier=st.floats(0.5, 20),
    steps=st.integers(1, 3000),
)

KNOWN = [  # rate, noise, steps; ε at δ = 1e-5 by PLD, RDP, GDP-CLT
    (0.02, 1.0, 2000, 5.616, 6.150, 5.268),
    (0.01, 0.6, 100, 3.816, 4.831, 1.505),
    (0.02, 1.0, 1, 0.439, 1.164, 0.079),
    (0.1, 2.0, 500, 5.555, 6.035, 5.370),
    (0.05, 4.0, 2000, 2.321, 2.524, 2.298),
]


@pytest.mark.parametrize(("rate", "noise", "steps", "pld", "rdp", "gdp"), KNOWN)
def test_epsilon_is_the_one_that_other_accountants_find(rate, noise, steps, pld, rdp, gdp):
    # PLD: PRV (Gopi et al. 2021) confirms four digits; RDP and GDP: as Opacus gives them.
    released = [DpSgd(rate, noise, steps)]
    assert epsilon(released, 1e-5) == pytest.approx(pld, abs=2e-3)
    assert epsilon_rdp(released, 1e-5) == pytest.approx(rdp, abs=2e-3)
    assert epsilon_gdp(released, 1e-5) == pytest.approx(gdp, abs=2e-3)


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
    assert epsilon([], 1e-5) == epsilon_rdp([], 1e-5) == epsilon_gdp([], 1e-5) == 0


def test_gdp_is_no_bound_and_says_so():
    one_step = [DpSgd(0.02, 1.0, 1)]
    assert epsilon(one_step, 1e-5) > 5.5 * epsilon_gdp(one_step, 1e-5)
    assert "not a bound" in (epsilon_gdp.__doc__ or "")


def test_gdp_is_exact_without_sampling_and_composes_as_the_root_of_squares():
    gaussian = [DpSgd(1.0, 20.0, 300), DpSgd(1.0, 10.0, 175)]  # 300/400 + 175/100 = 2.5
    assert epsilon_gdp(gaussian, 1e-5) == pytest.approx(
        epsilon([DpSgd(1.0, 2.5**-0.5, 1)], 1e-5), abs=1e-3
    )
    assert epsilon_gdp([DpSgd(0.5, 0.01, 10**6)], 1e-5) == math.inf


@given(
    mechanisms=st.lists(mechanisms, min_size=1, max_size=2),
    delta=st.floats(-8, -3).map(lambda x: 10**x),
)
@settings(max_examples=15, deadline=None)
def test_the_second_opinion_is_never_below_the_authority(mechanisms, delta):
    # epsilon itself refuses beyond 0.1 %; nothing in this range comes near. The last term: below
    # ε = 1e-6 both are rounding.
    assert epsilon_rdp(mechanisms, delta) >= epsilon(mechanisms, delta) - 1e-6


@pytest.mark.parametrize(
    ("accountant", "factor"), [("_rdp", 0.9), ("_pld", 1.2), ("_pld", math.nan)]
)
def test_an_accountant_that_contradicts_the_other_stops_everything(monkeypatch, accountant, factor):
    honest = getattr(accounting, accountant)
    monkeypatch.setattr(accounting, accountant, lambda *a: factor * honest(*a))
    with pytest.raises(StateError, match=r"contradicts itself.*Reinstall"):
        epsilon([DpSgd(0.02, 1.0, 2000)], 1e-5)


def test_what_no_grid_resolves_is_priced_as_an_upper_bound_and_not_called_a_contradiction():
    # One step's loss is 1e-8 here, far below any grid: PLD says more than RDP, and may.
    assert epsilon([DpSgd(2e-7, 18.5, 800_000)], 1e-6) >= 0


@given(
    pieces=st.lists(mechanisms, min_size=1, max_size=3),
    data=st.data(),
    delta=st.sampled_from([1e-7, 1e-5, 1e-3]),
)
@settings(max_examples=10, deadline=None)
def test_no_bit_depends_on_the_order_or_on_where_a_run_was_cut(pieces, data, delta):
    cut = []
    for m in pieces:
        first = data.draw(st.integers(1, m.steps))
        cut.append(DpSgd(m.sampling_rate, m.noise_multiplier, first))
        if first < m.steps:
            cut.append(DpSgd(m.sampling_rate, m.noise_multiplier, m.steps - first))
    resumed = data.draw(st.permutations(cut))
    for price in (epsilon, epsilon_rdp, epsilon_gdp):
        whole = price(pieces, delta)
        accounting._pld.cache_clear()
        accounting._rdp.cache_clear()
        assert price(resumed, delta).hex() == whole.hex()


@given(mechanism=mechanisms, more=st.integers(1, 100))
@settings(max_examples=10, deadline=None)
def test_more_steps_never_cost_less(mechanism, more):
    longer = DpSgd(mechanism.sampling_rate, mechanism.noise_multiplier, mechanism.steps + more)
    # Grids of different width differ by up to a thousandth; each is an upper bound.
    assert epsilon([longer], 1e-5) >= epsilon([mechanism], 1e-5) * 0.999


def test_a_hopeless_plan_is_priced_in_bounded_time_and_memory():
    started = time.process_time()
    assert epsilon([DpSgd(1.0, 0.5, 1_000_000)], 1e-5) > 1e3
    assert epsilon([DpSgd(0.5, 0.5, 1000)], 1e-5) > 100
    for endless in (DpSgd(0.013, 2.1, 7_000_000), DpSgd(1e-4, 20.0, 10**9)):
        assert epsilon([endless], 1e-5) == epsilon_rdp([endless], 1e-5)
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
