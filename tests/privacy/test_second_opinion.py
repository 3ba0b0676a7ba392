"""Other accountants, around the one that decides."""

from __future__ import annotations

import pytest

from primia.privacy import DistributedDpSgd, DpSgd, epsilon, epsilon_rdp
from primia.privacy.mechanism import Mechanism
from primia.privacy.second_opinion import epsilon_above, epsilon_below

CASES = [
    ([DpSgd(0.02, 1.0, 2000)], 1e-5, 5.616),  # docs/privacy.md
    ([DpSgd(0.01, 0.6, 100)], 1e-5, 3.816),
    ([DpSgd(0.1, 2.0, 500)], 1e-5, 5.556),
    ([DpSgd(1.0, 1.0, 1)], 1e-5, 4.377),  # µ = 1 in closed form
    ([DpSgd(0.2, 1.2, 60), DpSgd(0.05, 0.8, 40)], 1e-4, None),
]


@pytest.mark.parametrize(("mechanisms", "delta", "known"), CASES)
def test_the_deciding_figure_lies_between_the_two_bounds(
    mechanisms: list[Mechanism], delta: float, known: float | None
) -> None:
    decides = epsilon(mechanisms, delta)
    below, above = epsilon_below(mechanisms, delta), epsilon_above(mechanisms, delta)
    assert below is not None
    assert below * (1 - 1e-3) <= decides <= above
    assert decides <= below * 1.03  # so a claim three per cent too low is found
    if known is not None:
        assert decides == pytest.approx(known, abs=1e-3)


@pytest.mark.parametrize("kind", [DpSgd, DistributedDpSgd])
def test_the_written_out_divergences_agree_with_the_librarys_at_whole_orders(
    kind: type[Mechanism],
) -> None:
    for rate, noise, steps in [(0.2, 1.4, 120), (0.02, 1.0, 2000), (1.0, 4.0, 10)]:
        ours = epsilon_above([kind(rate, noise, steps)], 1e-5)
        library = epsilon_rdp([kind(rate, noise, steps)], 1e-5)
        assert ours == pytest.approx(library, rel=0.02)
        if kind is DistributedDpSgd:
            assert ours <= library * (1 + 1e-9)  # more orders are tried


def test_nothing_released_costs_nothing_and_shared_noise_has_no_lower_bound() -> None:
    assert epsilon_above([], 1e-5) == epsilon_below([], 1e-5) == 0.0
    assert epsilon_below([DistributedDpSgd(0.1, 1.0, 5)], 1e-5) is None
