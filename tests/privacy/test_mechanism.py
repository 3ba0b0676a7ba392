import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.privacy import DpSgd, gradient_noise_multiplier
from primia.privacy.mechanism import merge


def test_steps_of_equal_mechanisms_add_up_whatever_their_order():
    a, b = DpSgd(0.1, 1.0, 3), DpSgd(0.1, 2.0, 5)
    assert merge([a, b, DpSgd(0.1, 1.0, 4)]) == (DpSgd(0.1, 1.0, 7), b)
    assert merge([b, DpSgd(0.1, 1.0, 7)]) == merge([DpSgd(0.1, 1.0, 4), a, b])
    assert merge([]) == ()


@pytest.mark.parametrize(
    ("rate", "noise", "steps"),
    [
        (0.0, 1.0, 1),
        (1.1, 1.0, 1),
        (math.nan, 1.0, 1),
        (0.1, 0.0, 1),
        (0.1, -1.0, 1),
        (0.1, math.inf, 1),
        (0.1, math.nan, 1),
        (0.1, 1.0, 0),
    ],
)
def test_numbers_that_mean_nothing_are_refused(rate, noise, steps):
    with pytest.raises(ValueError, match="must"):
        DpSgd(rate, noise, steps)


@given(z=st.floats(0.1, 100), ratio=st.floats(0.51, 1e3))
def test_gradient_and_count_together_are_one_mechanism_of_sensitivity_one_over_z(z, ratio):
    # The largest change one patient makes: a gradient of length C and (b - 1/2) = ± 1/2, each in
    # units of its own noise.
    count_noise = z * ratio
    gradient = 1 / gradient_noise_multiplier(z, count_noise)
    count = 0.5 / count_noise
    assert math.hypot(gradient, count) == pytest.approx(1 / z, rel=1e-9)
    assert gradient < 1 / z  # with z alone as the gradient's noise the pair would show too much


def test_the_split_is_the_one_of_the_paper():
    # Andrew et al., section 3.1: count noise m/20 of m = 100 patients, z = 1
    assert gradient_noise_multiplier(1.0, 5.0) == pytest.approx(1 / math.sqrt(0.99))


@pytest.mark.parametrize(
    ("z", "count_noise"), [(1.0, 0.5), (1.0, 0.0), (2.0, 0.9), (1.0, math.nan), (0.0, 1.0)]
)
def test_a_count_that_leaves_nothing_for_the_gradient_is_refused(z, count_noise):
    with pytest.raises(ValueError, match="must be above"):
        gradient_noise_multiplier(z, count_noise)
