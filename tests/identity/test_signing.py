"""Signatures hold for one key, one label, one statement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from primia.identity.keyfile import new_key
from primia.identity.signing import sign, verify

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "identity.json").read_text())
KEY = new_key()


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=200))
def test_what_is_signed_verifies(label, statement):
    assert verify(KEY.public_key(), label, statement, sign(KEY, label, statement))


@given(st.binary(min_size=1, max_size=8), st.binary(max_size=8), st.integers(1, 8))
def test_moving_bytes_between_label_and_statement_breaks_the_signature(label, statement, n):
    both = label + statement
    if n != len(label) and n <= len(both):
        assert not verify(KEY.public_key(), both[:n], both[n:], sign(KEY, label, statement))


@given(st.binary(max_size=100))
def test_random_bytes_are_no_signature_and_do_not_crash(signature):
    assert not verify(KEY.public_key(), b"plan", b"statement", signature)


def test_another_key_does_not_verify():
    assert not verify(new_key().public_key(), b"plan", b"x", sign(KEY, b"plan", b"x"))


@pytest.mark.parametrize("case", VECTORS["signatures"], ids=lambda c: c["why"])
def test_known_signatures_and_forgeries(case):
    key = ec.derive_private_key(int(VECTORS["invitation"]["scalar"], 16), ec.SECP256R1())
    label, statement = bytes.fromhex(case["label"]), bytes.fromhex(case["statement"])
    signature = bytes.fromhex(case["signature"])
    assert verify(key.public_key(), label, statement, signature) is case["holds"]
    if case["holds"]:
        assert sign(key, label, statement) == signature
