import math

import pytest

from primia.privacy import DpSgd
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
