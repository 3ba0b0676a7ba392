"""The noise, the steps or the sampling rate that a target ε leaves room for.

Each search runs on a coarse and cheap price first and lets the exact one decide near its answer,
so that what is given back keeps the target and the next value on its scale does not. All three
are pure functions of their arguments: two parties who calibrate find the same number.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from primia.errors import ConfigError
from primia.privacy.accounting import epsilon, epsilon_rdp, epsilon_roughly
from primia.privacy.mechanism import DpSgd, Mechanism

_NOISE_SCALE = 1000  # noise multipliers are calibrated in thousandths, up to 10,000
_RATE_SCALE = 1_000_000  # sampling rates in millionths
_FAR = 10  # RDP this many times above the target: not worth a finer figure while searching
_MOST = 10_000_000  # the longest scale: noise in thousandths, and steps


def calibrate_noise(
    sampling_rate: float,
    steps: int,
    delta: float,
    target_epsilon: float,
    floor: float = 0.5,
    *,
    kind: type[Mechanism] = DpSgd,
) -> float:
    """The smallest noise multiplier, in thousandths and at least `floor`, with ε ≤ the target.

    kind: the mechanism that is to have it.

    Raises ConfigError when even a noise multiplier of 10,000 does not reach the target.
    """
    noise = _first_that_fits(
        lambda n: kind(sampling_rate, n / _NOISE_SCALE, steps),
        range(math.ceil(floor * _NOISE_SCALE), _MOST + 1),
        delta,
        target_epsilon,
    )
    if noise is None:
        raise ConfigError(
            f"target_epsilon {target_epsilon} at delta {delta} is out of reach with {steps} "
            f"steps at sampling rate {sampling_rate}: take fewer steps or a larger epsilon"
        )
    return noise / _NOISE_SCALE


def calibrate_steps(
    sampling_rate: float, noise_multiplier: float, delta: float, target_epsilon: float
) -> int:
    """The most steps, up to ten million, with ε ≤ the target.

    Raises ConfigError when not even one step fits.
    """
    # From many to few: the first number of steps that fits is the largest.
    steps = _first_that_fits(
        lambda n: DpSgd(sampling_rate, noise_multiplier, n),
        range(_MOST, 0, -1),
        delta,
        target_epsilon,
    )
    if steps is None:
        raise ConfigError(
            f"target_epsilon {target_epsilon} at delta {delta} does not allow one step at sampling "
            f"rate {sampling_rate} with noise multiplier {noise_multiplier}: take more noise, a "
            "smaller rate or a larger epsilon"
        )
    return steps


def calibrate_rate(
    noise_multiplier: float, steps: int, delta: float, target_epsilon: float
) -> float:
    """The largest sampling rate, in millionths and at most 1, with ε ≤ the target.

    Raises ConfigError when not even a rate of one millionth fits.
    """
    rate = _first_that_fits(
        lambda n: DpSgd(n / _RATE_SCALE, noise_multiplier, steps),
        range(_RATE_SCALE, 0, -1),
        delta,
        target_epsilon,
    )
    if rate is None:
        raise ConfigError(
            f"target_epsilon {target_epsilon} at delta {delta} is out of reach with {steps} steps "
            f"and noise multiplier {noise_multiplier}: take more noise, fewer steps or a larger "
            "epsilon"
        )
    return rate / _RATE_SCALE


def _first_that_fits(
    mechanism: Callable[[int], Mechanism], scale: range, delta: float, target_epsilon: float
) -> int | None:
    """The first number on `scale`, costly to cheap, whose mechanism keeps the target; or None."""
    if not target_epsilon > 0:
        raise ValueError(f"target_epsilon {target_epsilon}: must be above 0")

    def roughly(index: int) -> bool:
        tried = [mechanism(scale[index])]
        bound = epsilon_rdp(tried, delta)
        if bound <= target_epsilon or bound > _FAR * target_epsilon:
            return bound <= target_epsilon
        return epsilon_roughly(tried, delta) <= target_epsilon

    def exactly(index: int) -> bool:
        return epsilon([mechanism(scale[index])], delta) <= target_epsilon

    start = _first_true(roughly, len(scale), start=len(scale) // 2, stride=len(scale))
    index = _first_true(exactly, len(scale), start=min(start, len(scale) - 1))
    return None if index == len(scale) else scale[index]


def _first_true(holds: Callable[[int], bool], count: int, start: int, stride: int = 1) -> int:
    """The first of 0 … count - 1 for which `holds`, when it holds for all after it; else `count`.

    Looks near `start` first: strides that double until the answer is enclosed, then halving.
    """
    below, above = -1, count  # it does not hold at `below`, it holds at `above`
    probe = start
    while below < probe < above:
        if holds(probe):
            above, probe = probe, probe - stride
        else:
            below, probe = probe, probe + stride
        stride *= 2
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if holds(middle) else (middle, above)
    return above
