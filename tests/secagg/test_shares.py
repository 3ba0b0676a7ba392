from __future__ import annotations

import hashlib
import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.errors import RoundFailed
from primia.secagg.shares import (
    PRIME,
    SHARE_BYTES,
    combine,
    entropy_bytes,
    recover,
    split,
)


def entropy(t: int, label: str = "") -> bytes:
    return hashlib.shake_256(f"entropy{label}".encode()).digest(entropy_bytes(t))


def test_the_modulus_is_prime():
    """Miller-Rabin with 40 bases; each finds at least three of four composites."""
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in range(2, 42):
        x = pow(base, odd, PRIME)
        if x in (1, PRIME - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % PRIME
            if x == PRIME - 1:
                break
        else:
            pytest.fail(f"composite, says base {base}")


def test_it_is_the_smallest_prime_above_2_to_the_256():
    for gap in range(1, 297, 2):
        assert pow(3, 2**256 + gap - 1, 2**256 + gap) != 1  # fails Fermat's test: composite


def test_shares_match_the_known_answers(vectors):
    v = vectors["shamir"]
    shares = split(
        bytes.fromhex(v["secret"]),
        holders=len(v["shares"]),
        threshold=v["threshold"],
        entropy=bytes.fromhex(v["entropy"]),
    )
    assert [s.hex() for s in shares] == v["shares"]
    by_x = {x: shares[x - 1] for x in (2, 4, 5)}
    assert combine(by_x, threshold=3).hex() == v["secret"]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.binary(min_size=32, max_size=32), st.integers(2, 12))
def test_any_threshold_of_shares_gives_the_secret(data, secret, n):
    t = data.draw(st.integers(2, n))
    randomness = data.draw(st.binary(min_size=entropy_bytes(t), max_size=entropy_bytes(t)))
    shares = split(secret, holders=n, threshold=t, entropy=randomness)
    assert all(len(s) == SHARE_BYTES for s in shares)
    chosen = data.draw(st.permutations(range(1, n + 1)))[:t]
    assert combine({x: shares[x - 1] for x in chosen}, threshold=t) == secret


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_the_smallest_and_largest_secrets_come_back(secret):
    shares = split(secret, holders=3, threshold=2, entropy=entropy(2))
    for pair in itertools.combinations((1, 2, 3), 2):
        assert combine({x: shares[x - 1] for x in pair}, threshold=2) == secret


def test_fewer_shares_than_the_threshold_fit_every_secret():
    """For any other secret there is a polynomial through the same t - 1 shares."""
    secret, t = b"\x11" * 32, 3
    shares = split(secret, holders=5, threshold=t, entropy=entropy(t))
    known = {1: int.from_bytes(shares[0], "big"), 2: int.from_bytes(shares[1], "big")}
    for guess in (0, 1, 2**256 - 1):
        # The parabola through (0, guess), (1, s1), (2, s2) exists and is unique; its value at 3:
        third = (guess - 3 * known[1] + 3 * known[2]) % PRIME
        found = combine({1: shares[0], 2: shares[1], 3: third.to_bytes(33, "big")}, threshold=t)
        assert int.from_bytes(found, "big") == guess


def test_recover_finds_the_secret_past_one_wrong_share_and_names_it():
    secret, t = b"\x11" * 32, 3
    good = dict(enumerate(split(secret, holders=4, threshold=t, entropy=entropy(t)), start=1))
    for liar in good:
        shares = {**good, liar: (int.from_bytes(good[liar], "big") ^ 1).to_bytes(33, "big")}
        found, wrong = recover(shares, threshold=t, accept=lambda s: s == secret)
        assert (found, wrong) == (secret, {liar})
    assert recover(good, threshold=t, accept=lambda s: s == secret) == (secret, frozenset())


def test_recover_finds_one_wrong_share_among_a_hundred():
    secret, n, t = b"\x11" * 32, 100, 67
    shares = dict(enumerate(split(secret, holders=n, threshold=t, entropy=entropy(t)), start=1))
    shares[31] = shares[32]
    assert recover(shares, threshold=t, accept=lambda s: s == secret) == (secret, {31})


def test_recover_gives_up_rather_than_give_a_wrong_secret():
    secret, t = b"\x11" * 32, 3
    good = dict(enumerate(split(secret, holders=3, threshold=t, entropy=entropy(t)), start=1))
    for shares in (
        {**good, 2: good[1]},
        {**good, 2: b"\xff" * 33},
        {**good, 2: b"short"},
        {1: good[1], 2: good[2]},
    ):
        with pytest.raises(RoundFailed, match="shares"):
            recover(shares, threshold=t, accept=lambda s: s == secret)


def test_a_share_that_is_no_field_element_is_refused(vectors):
    good = [bytes.fromhex(share) for share in vectors["shamir"]["shares"]]
    for forgery in vectors["forgeries"]["shares"]:
        shares = {1: good[0], 3: good[2], forgery["x"]: bytes.fromhex(forgery["share"])}
        with pytest.raises(ValueError, match=forgery["refusal"]):
            combine(shares, threshold=3)


def test_shares_at_any_positions_equal_lagrange_over_the_rationals():
    """Holders may sit anywhere: x up to 2^16, out of order."""
    secret, t = b"\x11" * 32, 4
    coefficients = [7, 2**255, PRIME - 1]
    xs = (65_536, 3, 1_000, 999)
    values = [
        (int.from_bytes(secret, "big") + sum(c * x**i for i, c in enumerate(coefficients, 1)))
        % PRIME
        for x in xs
    ]
    shares = {x: v.to_bytes(33, "big") for x, v in zip(xs, values, strict=True)}
    assert combine(shares, threshold=t) == secret
    at_zero = Fraction(0)
    for x, value in zip(xs, values, strict=True):
        at_zero += value * math.prod((Fraction(-o, x - o) for o in xs if o != x), start=Fraction(1))
    plain = at_zero.numerator * pow(at_zero.denominator, -1, PRIME) % PRIME
    assert plain == int.from_bytes(secret, "big")


@pytest.mark.parametrize(("t", "n"), [(1, 3), (4, 3), (0, 3)])
def test_a_threshold_that_hides_or_opens_nothing_is_refused(t, n):
    with pytest.raises(ValueError, match="threshold"):
        split(bytes(32), holders=n, threshold=t, entropy=bytes(entropy_bytes(max(t, 1))))


def test_secrets_and_entropy_of_another_length_are_refused():
    with pytest.raises(ValueError, match="length"):
        split(bytes(31), holders=3, threshold=2, entropy=entropy(2))
    with pytest.raises(ValueError, match="length"):
        split(bytes(32), holders=3, threshold=2, entropy=b"")
