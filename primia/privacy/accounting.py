"""How much a patient may show: (ε, δ) of a list of mechanisms, and the noise for a target ε.

The neighbouring relation is add-or-remove-one patient throughout. The authority is the privacy
loss distribution (PLD) of Google's dp-accounting, whose pessimistic rounding makes every ε an
upper bound. RDP stands beside it as a second opinion; it is never used to decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from primia.errors import ConfigError
from primia.privacy.mechanism import DpSgd, merge

if TYPE_CHECKING:
    from dp_accounting import DpEvent

_RDP_ORDERS = [*range(2, 65), 80, 96, 128, 192, 256, 512, 1024]
"""Whole orders only: the series for fractional ones fails to converge at large sampling rates."""

_MEANINGLESS = 1e3
"""Above this ε by RDP, itself an upper bound, nothing is worth a finer figure; PLD overflows."""

_MAX_NOISE = 1e4
_STEP = 1000  # noise multipliers are calibrated in thousandths


def epsilon(mechanisms: Sequence[DpSgd], delta: float) -> float:
    """ε at `delta` of everything in `mechanisms` together, by PLD; 0 for an empty list.

    Raises ValueError when `delta` is not in (0, 1).
    """
    _check_delta(delta)
    merged = merge(mechanisms)
    if not merged:
        return 0.0
    bound = _rdp(merged, delta)
    return bound if bound > _MEANINGLESS else _pld(merged, delta, _grid(bound))


def epsilon_rdp(mechanisms: Sequence[DpSgd], delta: float) -> float:
    """ε by Rényi differential privacy (Mironov 2017): looser than `epsilon`, for comparison only.

    Raises ValueError when `delta` is not in (0, 1).
    """
    _check_delta(delta)
    merged = merge(mechanisms)
    return _rdp(merged, delta) if merged else 0.0


def calibrate_noise(
    sampling_rate: float, steps: int, delta: float, target_epsilon: float, floor: float = 0.5
) -> float:
    """The smallest noise multiplier, in thousandths and at least `floor`, with ε ≤ the target.

    A pure function of its arguments, so that two parties who calibrate find the same noise.
    Raises ConfigError when even a noise multiplier of 10,000 does not reach the target.
    """
    if not target_epsilon > 0:
        raise ValueError(f"target_epsilon {target_epsilon}: must be above 0")
    _check_delta(delta)

    def fits(thousandths: int) -> bool:
        return epsilon([DpSgd(sampling_rate, thousandths / _STEP, steps)], delta) <= target_epsilon

    def roughly_fits(thousandths: int) -> bool:
        mechanism = (DpSgd(sampling_rate, thousandths / _STEP, steps),)
        bound = _rdp(mechanism, delta)
        if bound <= target_epsilon or bound > _MEANINGLESS:
            return bound <= target_epsilon
        return _pld(mechanism, delta, _grid(bound) * 10) <= target_epsilon

    lowest = math.ceil(floor * _STEP)
    # Search with a coarse grid, which is ten times cheaper, then let the exact one decide.
    rough = _smallest(roughly_fits, lowest, start=lowest)
    noise = None if rough is None else _smallest(fits, lowest, start=rough)
    if noise is None:
        raise ConfigError(
            f"target_epsilon {target_epsilon} at delta {delta} is out of reach with {steps} "
            f"steps at sampling rate {sampling_rate}: take fewer steps or a larger epsilon"
        )
    return noise / _STEP


def _smallest(fits: Callable[[int], bool], lowest: int, start: int) -> int | None:
    """The smallest number from `lowest` up that fits, when all above it fit too; None if none.

    Looks near `start` first: strides that double until the answer is enclosed, then halving.
    """
    stride = 1
    if fits(start):
        low, high = lowest - 1, start
        while high > lowest:
            candidate = max(lowest, high - stride)
            if not fits(candidate):
                low = candidate
                break
            high, stride = candidate, 2 * stride
    else:
        low, high = start, start + stride
        while not fits(high):
            if high >= _MAX_NOISE * _STEP:
                return None
            stride *= 2
            low, high = high, high + stride
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta {delta}: must lie between 0 and 1")


def _grid(roughly: float) -> float:
    """Width of the PLD's grid, a power of ten. Any width gives an upper bound; finer costs more.

    1e-3 is within 1e-3 of the limit for 2000 steps at ε = 5.6. The support of the distribution
    grows with ε, so a fixed fine grid would take minutes and gigabytes for a plan that is refused
    anyway.
    """
    if roughly <= 1:
        return 1e-4
    return max(1e-3, 10.0 ** math.ceil(math.log10(roughly / 4e4)))


@lru_cache(maxsize=4096)
def _pld(merged: tuple[DpSgd, ...], delta: float, grid: float) -> float:
    # Imported late: dp-accounting loads scipy, which takes seconds that `--help` does not have.
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, grid)
    accountant.compose(_event(merged))
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=4096)
def _rdp(merged: tuple[DpSgd, ...], delta: float) -> float:
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(_RDP_ORDERS, dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(_event(merged))
    return float(accountant.get_epsilon(delta))


def _event(merged: tuple[DpSgd, ...]) -> DpEvent:
    import dp_accounting as dpa

    def one(m: DpSgd) -> DpEvent:
        step: DpEvent = dpa.GaussianDpEvent(m.noise_multiplier)
        if m.sampling_rate < 1:
            step = dpa.PoissonSampledDpEvent(m.sampling_rate, step)
        return dpa.SelfComposedDpEvent(step, m.steps)

    return dpa.ComposedDpEvent([one(m) for m in merged])
