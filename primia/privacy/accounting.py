"""How much a patient may show: (ε, δ) of everything released, by three accountants.

The neighbouring relation is add-or-remove-one patient throughout. The authority is the privacy
loss distribution (PLD) of Google's dp-accounting, whose pessimistic rounding makes every ε an
upper bound. RDP is an upper bound, too, and a looser one: it is the second opinion that may never
be below PLD, and `epsilon` refuses to answer when it is. GDP is a limit theorem, not a bound; it is
shown because papers quote it. Neither of the two ever decides.

One mechanism is an exception: noise that the sites add together is discrete, and only RDP at whole
orders is proved for it. A list that holds such a release is priced by that bound as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from primia.errors import StateError
from primia.privacy.mechanism import DistributedDpSgd, Mechanism, merge

if TYPE_CHECKING:
    from dp_accounting import DpEvent
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

_WHOLE_ORDERS = [*range(2, 65), 80, 96, 128, 192, 256, 512, 1024]
"""RDP orders tried first; then the tenths about the best, for 4.831 instead of 5.232 at sampling
rate 0.01, noise 0.6, 100 steps."""

_LOWEST_FRACTION = 2.5
"""Below, the series for fractional orders fails to converge at sampling rates near one half."""

_MEANINGLESS = 1e3
"""Above this ε by RDP, itself an upper bound, nothing is worth a finer figure; PLD overflows."""

_MANY_STEPS = 1_000_000
"""Above so many steps PLD takes minutes (54 s for 7 million, no end for a billion): RDP stands."""

_POINTS = 1e5
"""The PLD's grid gets about so many points at most: seconds, and some hundred megabytes."""

_FINEST = 1e-5
"""The PLD's finest grid; below, the differences it is made of drown in float64's rounding."""

_SMALLEST_DELTA = 1e-10
"""Below, the PLD's float64 transforms lose the tail (found 7.850 for an exact 7.869 at 1e-14)."""

_STEP_ERROR = 1e-14
"""What a step may add to δ by the PLD's float64 transforms; a δ below it all is not judged."""

_PROFILE_DELTA = 1e-5
"""Where the profile's grid is sized; any grid gives an upper bound."""

_AGREEMENT = 1e-3
"""How far PLD may pass RDP, relative, before one of the two counts as broken. None was seen to pass
at all where `_judged`, see tests/privacy/test_accounting.py for the range."""


def epsilon(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """ε at `delta` of everything in `mechanisms` together, by PLD; 0 for an empty list.

    Above ε = 1000 or a million steps, and below δ = 1e-10, it is RDP's bound: larger, and sure.
    So it is for any list with a `DistributedDpSgd`, which the PLD is not proved for.

    A pure function of the mechanisms as a set with step counts: neither the order of release nor
    where a run was stopped and resumed changes a bit of the result.

    Raises ValueError when `delta` is not in (0, 1), StateError when RDP contradicts PLD.
    """
    _check_delta(delta)
    merged = merge(mechanisms)
    if not merged:
        return 0.0
    bound = _rdp(merged, delta)
    if _rdp_is_enough(merged, bound, delta):
        return bound
    grid = _grid(merged, bound)
    found = _pld(merged, delta, grid)
    agree = found <= bound * (1 + _AGREEMENT) + 1e-6  # false for NaN: fail closed
    if not agree and _judged(merged, delta, grid):
        raise StateError(
            f"privacy accounting contradicts itself: epsilon {found:.6g} by PLD, only {bound:.6g} "
            "by RDP, which can never be the smaller; nothing was released. Reinstall primia with "
            "the versions in constraints.txt and run its tests before going on"
        )
    return found


def privacy_profile(mechanisms: Sequence[Mechanism]) -> Callable[[float], float]:
    """δ as a function of ε ≥ 0, an upper bound everywhere, for everything in `mechanisms` together.

    By PLD, and by RDP where `epsilon` takes RDP's bound alone. Raises ValueError for an empty list.
    """
    merged = merge(mechanisms)
    if not merged:
        raise ValueError("mechanisms: an empty list releases nothing and has no profile")
    bound = _rdp(merged, _PROFILE_DELTA)
    if _rdp_is_enough(merged, bound, _PROFILE_DELTA):
        by_rdp = _rdp_accountant(merged, _WHOLE_ORDERS)
        return lambda target: float(by_rdp.get_delta(target))
    by_pld = _pld_accountant(merged, _grid(merged, bound))
    return lambda target: float(by_pld.get_delta(target))


def epsilon_roughly(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """An upper bound on `epsilon` that is ten times cheaper: for searches, never for a report."""
    merged = merge(mechanisms)
    bound = epsilon_rdp(merged, delta)
    if not merged or _rdp_is_enough(merged, bound, delta):
        return bound
    return _pld(merged, delta, 10 * _grid(merged, bound))


def epsilon_rdp(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """ε by Rényi differential privacy (Mironov 2017): an upper bound looser than `epsilon`.

    Raises ValueError when `delta` is not in (0, 1).
    """
    _check_delta(delta)
    merged = merge(mechanisms)
    return _rdp(merged, delta) if merged else 0.0


def epsilon_gdp(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """ε by the central limit theorem of Gaussian DP: a comparison with papers, **not a bound**.

    Bu, Dong, Long, Su 2019, "Deep learning with Gaussian differential privacy", for Poisson
    sampling: T steps tend to µ = q · sqrt(T · (exp(1/σ²) - 1)), and mechanisms compose to the root
    of the sum of their µ². Few steps are far from the limit: one step of q = 0.02, σ = 1 at
    δ = 1e-5 costs 0.439 and reads 0.079 here, 5.6 times too little; after 2000 steps it is 5.616
    and reads 5.268. Without sampling (q = 1) a step is exactly 1/σ-GDP and the figure is exact.

    Raises ValueError when `delta` is not in (0, 1).
    """
    _check_delta(delta)
    merged = merge(mechanisms)
    if not merged:
        return 0.0
    from dp_accounting import get_epsilon_gaussian

    mu = math.sqrt(math.fsum(m.steps * _loss(m) ** 2 for m in merged))
    return math.inf if mu > _MEANINGLESS else float(get_epsilon_gaussian(1 / mu, delta))


def _rdp_is_enough(merged: tuple[Mechanism, ...], bound: float, delta: float) -> bool:
    """Whether RDP's bound stands alone: a finer one means nothing, takes minutes, is unsure or is
    not proved."""
    if _has_discrete_noise(merged):
        return True
    many = sum(m.steps for m in merged) > _MANY_STEPS
    return bound > _MEANINGLESS or many or delta < _SMALLEST_DELTA


def _has_discrete_noise(merged: tuple[Mechanism, ...]) -> bool:
    return any(isinstance(m, DistributedDpSgd) for m in merged)


def _judged(merged: tuple[Mechanism, ...], delta: float, grid: float) -> bool:
    """Whether PLD is sharp enough here for RDP to be above it, if both are right.

    Far off any real plan it is not: a grid wider than one step's loss rounds each loss up manifold,
    and rounding errors of millions of steps add up to a tiny δ. PLD is an upper bound even then,
    from `_SMALLEST_DELTA` on.
    """
    resolved = grid <= min(_loss(m) for m in merged)
    return resolved and delta >= _STEP_ERROR * sum(m.steps for m in merged)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta {delta}: must lie between 0 and 1")


def _loss(m: Mechanism) -> float:
    """Typical privacy loss of one step: its µ in the limit theorem, χ distance of the outputs."""
    if m.sampling_rate == 1:
        return 1 / m.noise_multiplier
    return m.sampling_rate * math.sqrt(_expm1(m.noise_multiplier**-2))


def _reach(m: Mechanism) -> float:
    """Largest privacy loss of one step that the PLD has to hold: ten deviations out."""
    largest = m.noise_multiplier**-2 / 2 + 10 / m.noise_multiplier
    return math.log1p(m.sampling_rate * _expm1(largest))


def _expm1(x: float) -> float:
    return math.expm1(min(x, 500.0))  # beyond, ε has long lost its meaning


def _grid(merged: tuple[Mechanism, ...], bound: float) -> float:
    """Width of the PLD's grid. Any width gives an upper bound; finer is tighter and costs more.

    Rounding a loss to the grid adds at most a quarter of the squared width to its variance. A
    fiftieth of one step's loss adds 1e-4 of the variance: 5.6160 for 5.6158 after 2000 steps. The
    support grows with ε (`bound`, by RDP), so that a fixed fine grid would take minutes and
    gigabytes for a plan that is refused anyway.
    """
    wanted = max(_FINEST, min(_loss(m) for m in merged) / 50)
    wanted = min(wanted, 1e-4 if bound <= 1 else 1e-3)
    affordable = (bound + max(_reach(m) for m in merged)) / _POINTS
    return max(wanted, affordable)


@lru_cache(maxsize=4096)
def _pld(merged: tuple[Mechanism, ...], delta: float, grid: float) -> float:
    return float(_pld_accountant(merged, grid).get_epsilon(delta))


def _pld_accountant(merged: tuple[Mechanism, ...], grid: float) -> PLDAccountant:
    # Imported late: dp-accounting loads scipy, which takes seconds that `--help` does not have.
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, grid)
    accountant.compose(_event(merged))
    return accountant


@lru_cache(maxsize=4096)
def _rdp(merged: tuple[Mechanism, ...], delta: float) -> float:
    bound, best = _rdp_at(merged, delta, _WHOLE_ORDERS)
    if _has_discrete_noise(merged):
        return bound  # the series for fractional orders integrates a continuous density
    tenths = [best + n / 10 for n in range(-9, 10) if best + n / 10 >= _LOWEST_FRACTION]
    return min(bound, _rdp_at(merged, delta, tenths)[0])


def _rdp_at(
    merged: tuple[Mechanism, ...], delta: float, orders: Sequence[float]
) -> tuple[float, float]:
    """The smallest ε over `orders`, and the order it is found at."""
    bound, best = _rdp_accountant(merged, orders).get_epsilon_and_optimal_order(delta)
    return float(bound), float(best)


def _rdp_accountant(merged: tuple[Mechanism, ...], orders: Sequence[float]) -> RdpAccountant:
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders, dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(_event(merged))
    return accountant


def _event(merged: tuple[Mechanism, ...]) -> DpEvent:
    """What dp-accounting takes. At whole orders the RDP of discrete Gaussian noise under Poisson
    sampling has the Gaussian's bound, so one event serves both kinds."""
    import dp_accounting as dpa

    def one(m: Mechanism) -> DpEvent:
        step: DpEvent = dpa.GaussianDpEvent(m.noise_multiplier)
        if m.sampling_rate < 1:
            step = dpa.PoissonSampledDpEvent(m.sampling_rate, step)
        return dpa.SelfComposedDpEvent(step, m.steps)

    return dpa.ComposedDpEvent([one(m) for m in merged])
