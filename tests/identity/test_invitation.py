"""One-time codes: what they carry, what a typo says, and that both sides derive the same bytes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.errors import ConfigError, IdentityError
from primia.identity.invitation import PREFIX, Invitation, read_code, split_address
from primia.types import SiteId

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "identity.json").read_text())
CODE = Invitation(
    address="lab.example:7443",
    site=SiteId("munich"),
    authority=bytes(range(32, 64)),
    not_after=datetime(2027, 1, 1, tzinfo=UTC),
    secret=bytes(range(32)),
)

invitations = st.builds(
    Invitation,
    address=st.sampled_from(["lab.example:7443", "127.0.0.1:1", "[::1]:65535", "x:80"]),
    site=st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True).map(SiteId),
    authority=st.binary(min_size=32, max_size=32),
    not_after=st.datetimes(datetime(2025, 1, 1), datetime(2200, 1, 1)).map(
        lambda d: d.replace(microsecond=0, tzinfo=UTC)
    ),
    secret=st.binary(min_size=32, max_size=32),
)


@given(invitations)
def test_a_code_reads_back_as_what_was_written(invitation):
    assert read_code(invitation.code()) == invitation


@given(invitations)
@settings(max_examples=20)
def test_both_sides_derive_the_same_certificate_bytes(invitation):
    other_side = read_code(invitation.code())
    assert other_side.certificate() == invitation.certificate()
    assert other_side.key().public_key() == invitation.certificate().public_key()


@given(st.integers(0, 10_000), st.sampled_from("abcXYZ019-_"))
def test_one_wrong_letter_is_called_a_typo(position, letter):
    text = CODE.code()
    at = len(PREFIX) + position % (len(text) - len(PREFIX) - 1)
    broken = text[:at] + letter + text[at + 1 :]
    if broken != text:
        with pytest.raises(IdentityError, match="typo or a missing part"):
            read_code(broken)


@given(st.text(max_size=300))
def test_any_text_is_refused_as_a_code_and_never_crashes(text):
    for candidate in (text, PREFIX + text):
        with pytest.raises(IdentityError):
            read_code(candidate)


def test_a_code_survives_being_pasted_with_line_breaks():
    text = CODE.code()
    assert read_code(f"  {text[:40]}\n{text[40:90]}\r\n {text[90:]}\n") == CODE
    assert len(text) <= 170


def test_a_code_cut_short_is_called_a_typo_or_missing_part():
    with pytest.raises(IdentityError, match="missing part"):
        read_code(CODE.code()[:-9])


def test_the_secret_is_in_no_printed_form_and_not_in_the_certificate():
    secret = CODE.secret
    assert secret.hex() not in repr(CODE)
    assert repr(secret) not in repr(CODE)
    der = CODE.certificate().public_bytes(Encoding.DER)
    assert secret not in der


def test_the_enrolment_certificate_shows_the_site_in_its_uri_only():
    """Its subject is sent to whoever opens a TLS connection; the site's name must not be there."""
    certificate = CODE.certificate()
    assert "munich" not in certificate.subject.rfc4514_string()
    assert "munich" not in certificate.issuer.rfc4514_string()


def test_another_site_authority_or_secret_gives_another_key():
    keys = {
        Invitation(
            address="a:1",
            site=SiteId(site),
            authority=auth,
            not_after=CODE.not_after,
            secret=secret,
        )
        .key()
        .private_numbers()
        .private_value
        for site, auth, secret in (
            ("a", bytes(32), bytes(32)),
            ("b", bytes(32), bytes(32)),
            ("a", bytes([1] * 32), bytes(32)),
            ("a", bytes(32), bytes([1] * 32)),
        )
    }
    assert len(keys) == 4


def test_known_answer():
    """Fixed bytes: a changed derivation would lock out every code already handed over."""
    known = VECTORS["invitation"]
    assert CODE.code() == known["code"]
    assert f"{CODE.key().private_numbers().private_value:064x}" == known["scalar"]
    assert CODE.certificate().fingerprint(hashes.SHA256()).hex() == known["certificate_sha256"]


@pytest.mark.parametrize("text", ["lab", "lab:", ":80", "lab:0", "lab:65536", "a b:80", "::1:80"])
def test_an_address_without_a_sound_port_is_refused(text):
    with pytest.raises(ConfigError, match="host:port"):
        split_address(text)


def test_addresses_split_into_host_and_port():
    assert split_address("lab.example:7443") == ("lab.example", 7443)
    assert split_address("[::1]:7443") == ("::1", 7443)


def test_a_code_with_an_expiry_keeps_it_to_the_second():
    assert read_code(CODE.code()).not_after - datetime(2027, 1, 1, tzinfo=UTC) == timedelta(0)
