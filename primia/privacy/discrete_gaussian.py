"""Discrete Gaussian noise, exactly: integers x with probability in proportion to exp(-x² / 2v).

The sampler is that of Canonne, Kamath and Steinke (NeurIPS 2020, arXiv 2004.00010), Algorithms 1
to 3, for whole arrays: propose from a discrete Laplace distribution of scale t = ⌊√v⌋ + 1, accept
with probability exp(-γ). Two steps are arranged anew, with the same law. The geometric part of the
proposal is read off one uniform number instead of a chain of coins, and the two coins that keep a
proposal, exp(-u/t) and exp(-(|y| - v/t)² / 2v), are thrown as one.

Exact means that no probability is rounded. A coin of probability p compares 63 random bits with
p · 2^63 in float64; where the rounding errors of that product could change the answer (once in
2^41 coins) the comparison goes on with integers and as many further bits as it takes.

The time a sample takes depends on the proposals that were rejected, not on the one accepted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Entropy = Callable[[int], bytes]

LARGEST_VARIANCE = 10**14
"""Beyond, products of a proposal and the scale would pass 2^53 in all too likely cases."""

_CHUNK = 1 << 14  # proposals at a time: their arrays stay in the cache
_KEPT = 0.47  # share of proposals that are kept, a little below what it is for any variance
_SLACK = 2.0**-43
"""Relative error of p · 2^63 for γ up to 63, with room: γ has 8 roundings of 2^-53, which exp turns
into 63 · 2^-50, and exp itself a few units in the last place."""
_BITS = 63


def discrete_gaussian(variance: int, count: int, entropy: Entropy = os.urandom) -> Integers:
    """`count` independent samples of N_Z(0, variance), int64 (count,).

    variance: of the continuous Gaussian that is restricted to the integers, 1 to 10^14; from 1 on
        the samples' own variance is the same to 2e-7.
    entropy: asked once for the 32 bytes that key the stream of random bits (AES-256-CTR).

    Raises ValueError for a variance outside these limits.
    """
    if not 1 <= variance <= LARGEST_VARIANCE:
        raise ValueError(f"variance {variance}: must be from 1 to {LARGEST_VARIANCE:g}")
    stream = _Stream(entropy(32))
    samples = np.empty(count, np.int64)
    filled = 0
    while filled < count:
        wanted = min(_CHUNK, int((count - filled) / _KEPT) + 64)
        kept = _propose(variance, wanted, stream)[: count - filled]
        samples[filled : filled + kept.size] = kept
        filled += kept.size
    return samples


class _Stream:
    """Uniform 64-bit words from a key that is used for nothing else."""

    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(AES256(key), CTR(bytes(16))).encryptor()

    def words(self, count: int) -> Words:
        """uint64 (count,)."""
        return np.frombuffer(self._cipher.update(bytes(8 * count)), dtype="<u8")

    def more(self) -> int:
        """64 further bits as a number."""
        return int(self.words(1)[0])


def _propose(variance: int, count: int, stream: _Stream) -> Integers:
    """Throw `count` proposals; what is kept of them, in order."""
    scale = math.isqrt(variance) + 1
    words = stream.words(count)
    sign = (words & np.uint64(1)).astype(bool)
    uniform = words >> np.uint64(1)
    # Above the last multiple of the scale some remainders would come once more than others.
    fair = uniform < np.uint64(2**_BITS - 2**_BITS % scale)
    remainder = (uniform % np.uint64(scale)).astype(np.int64)
    size = remainder + scale * _geometric(stream.words(count), stream)
    # γ = u/t + (|y|·t - v)² / 2vt²
    gamma = (size * scale - variance).astype(np.float64)
    gamma *= gamma
    gamma *= float(Fraction(1, 2 * variance * scale**2))
    gamma += remainder * (1.0 / scale)

    def exactly(i: int) -> Fraction:
        y = int(size[i])
        return Fraction(int(remainder[i]), scale) + Fraction(
            (y * scale - variance) ** 2, 2 * variance * scale**2
        )

    kept = _coins(gamma, exactly, stream)
    kept &= fair
    kept &= ~(sign & (size == 0))  # zero has two signs and would come twice as often
    return np.where(sign, -size, size)[kept]


def _coins(
    gamma: npt.NDArray[np.float64], exactly: Callable[[int], Fraction], stream: _Stream
) -> npt.NDArray[np.bool_]:
    """Independent coins, true with probability exp(-γ); `exactly(i)` is γ of coin i, rational."""
    uniform = stream.words(gamma.size) >> np.uint64(1)
    product = np.exp(-gamma) * 2.0**_BITS
    sure = np.maximum(product * (1 - _SLACK) - 2, 0).astype(np.uint64)
    never = (product * (1 + _SLACK) + 2).astype(np.uint64)
    heads = uniform < sure
    for i in np.flatnonzero(~heads & (uniform <= never)):
        heads[i] = below_exp(int(uniform[i]), _BITS, exactly(int(i)), stream.more)
    return heads


def below_exp(uniform: int, bits: int, gamma: Fraction, more: Callable[[], int]) -> bool:
    """Whether a uniform number of [0, 1) is below exp(-γ), decided without rounding.

    uniform: its first `bits` bits, as a number; more: gives the next 64, as often as it takes.
    """
    while True:
        low, high = exp_bounds(gamma, bits)
        if uniform + 1 <= low:
            return True
        if uniform >= high:
            return False
        uniform, bits = (uniform << 64) | more(), bits + 64


def exp_bounds(gamma: Fraction, bits: int) -> tuple[int, int]:
    """Integers around exp(-γ) · 2^bits, some 10^-9 apart before they are rounded outwards."""
    digits = bits * 30103 // 100_000 + 12 + len(str(int(gamma)))
    # Decimal's quotient and exp are correctly rounded: γ has the relative error 10^(1 - digits),
    # so exp(-γ) has γ times that, and its own.
    near = Context(prec=digits)
    value = near.exp(near.divide(Decimal(-gamma.numerator), Decimal(gamma.denominator)))
    wide = Context(prec=2 * digits + bits)  # so that these products are exact
    scaled = wide.multiply(value, Decimal(1 << bits))
    error = wide.multiply(scaled, Decimal(int(gamma) + 2).scaleb(1 - digits, wide))
    low = wide.subtract(scaled, error).to_integral_value(ROUND_FLOOR, wide)
    high = wide.add(scaled, error).to_integral_value(ROUND_CEILING, wide)
    return max(0, int(low)), int(high)


def _thresholds() -> Words:
    """⌊exp(-k) · 2^63⌋ for k = 45, ..., 1, ascending."""
    low_high = [exp_bounds(Fraction(k), _BITS) for k in range(45, 0, -1)]
    assert all(high == low + 1 for low, high in low_high)
    return np.array([low for low, _ in low_high], np.uint64)


_THRESHOLDS = _thresholds()


def _geometric(words: Words, stream: _Stream) -> Integers:
    """P[V ≥ k] = exp(-k), for each word: how many exp(-k) lie above a uniform number."""
    uniform = words >> np.uint64(1)
    above = np.searchsorted(_THRESHOLDS, uniform, side="right")
    found = (_THRESHOLDS.size - above).astype(np.int64)
    # A number that shares its 63 bits with a threshold is not compared yet; 0 with many.
    for i in np.flatnonzero((above > 0) & (_THRESHOLDS[above - 1] == uniform)):
        found[i] = _geometric_exactly(int(uniform[i]), stream.more)
    return found


def _geometric_exactly(uniform: int, more: Callable[[], int]) -> int:
    bits, k = _BITS, 1
    while True:
        low, high = exp_bounds(Fraction(k), bits)
        if uniform + 1 <= low:
            k += 1
        elif uniform >= high:
            return k - 1
        else:
            uniform, bits = (uniform << 64) | more(), bits + 64
