"""Who may speak for which role, and the attacks on that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from primia.errors import IdentityError, StateError
from primia.identity import authority as authorities
from primia.identity.authority import Authority, common_name, key_usage
from primia.identity.certificate import (
    COORDINATOR_HOST,
    Identity,
    Role,
    check_enrolment,
    check_issued,
    check_key,
    fingerprint,
    from_pem,
    identity_of,
    to_pem,
)
from primia.identity.enrolment import make_request
from primia.identity.invitation import Invitation
from primia.identity.keyfile import new_key
from primia.types import SiteId

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MUNICH = SiteId("munich")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authorities.create(
        tmp_path_factory.mktemp("a") / "authority", "chest", now=NOW, valid_days=400
    )


def forge(issuer_key, issuer_name, key, names, use=ExtendedKeyUsageOID.CLIENT_AUTH, ca=False):
    return (
        x509.CertificateBuilder()
        .subject_name(common_name("forged"))
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=ca), critical=True)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def test_a_site_certificate_speaks_for_its_site_and_nothing_else(authority):
    key = new_key()
    mine = authority.issue_site(make_request(key), MUNICH, now=NOW, valid_days=90)
    found = check_issued(from_pem(to_pem(mine)), authority.certificate, role=Role.SITE, now=NOW)
    assert found == Identity(Role.SITE, "munich")
    check_key(mine, key)
    for role in (Role.COORDINATOR, Role.ENROL):
        with pytest.raises(IdentityError, match="cannot act as"):
            check_issued(mine, authority.certificate, role=role, now=NOW)


def test_a_coordinator_certificate_cannot_act_as_a_site(authority):
    mine = authority.issue_coordinator(new_key().public_key(), "chest", now=NOW, valid_days=9)
    assert check_issued(mine, authority.certificate, role=Role.COORDINATOR, now=NOW) == Identity(
        Role.COORDINATOR, "chest"
    )
    with pytest.raises(IdentityError, match="coordinator chest cannot act as site"):
        check_issued(mine, authority.certificate, role=Role.SITE, now=NOW)


def test_names_asked_for_in_a_request_are_ignored(authority):
    key = new_key()
    asks = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(common_name("coordinator"))
        .add_extension(
            x509.SubjectAlternativeName(
                [uri("primia://coordinator/chest"), x509.DNSName(COORDINATOR_HOST)]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = asks.public_bytes(Encoding.PEM)
    mine = authority.issue_site(pem, MUNICH, now=NOW, valid_days=90)
    assert identity_of(mine) == Identity(Role.SITE, "munich")


def test_a_certificate_signed_by_an_enrolment_key_is_never_a_site(authority):
    """An enrolment certificate is a TLS trust anchor; its holder may try to sign with it."""
    invitation = Invitation(
        address="lab:7443",
        site=MUNICH,
        authority=authority.certificate.fingerprint(hashes.SHA256()),
        not_after=NOW + timedelta(days=2),
        secret=bytes(range(32)),
    )
    anchor = invitation.certificate()
    forged = forge(invitation.key(), anchor.subject, new_key(), [uri("primia://site/munich")])
    with pytest.raises(IdentityError, match="not issued by the authority trusted here"):
        check_issued(forged, authority.certificate, role=Role.SITE, now=NOW)


def test_a_foreign_authority_with_the_same_name_is_refused(authority):
    """Same issuer name, other key: only the signature tells them apart."""
    forged = forge(
        new_key(), authority.certificate.subject, new_key(), [uri("primia://site/munich")]
    )
    with pytest.raises(IdentityError, match="not issued by the authority trusted here"):
        check_issued(forged, authority.certificate, role=Role.SITE, now=NOW)


def test_a_certificate_below_a_site_certificate_is_refused(authority):
    key = new_key()
    site = authority.issue_site(make_request(key), MUNICH, now=NOW, valid_days=90)
    forged = forge(key, site.subject, new_key(), [uri("primia://site/berlin")])
    with pytest.raises(IdentityError, match="not issued by"):
        check_issued(forged, authority.certificate, role=Role.SITE, now=NOW)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "0 URI names"),
        ([uri("primia://site/a"), uri("primia://site/b")], "2 URI names"),
        ([uri("primia://site/a"), x509.DNSName(COORDINATOR_HOST)], "further names"),
        ([uri("primia://site/../a")], "no primia name"),
        ([uri("primia://admin/a")], "no primia name"),
        ([uri("https://site/a")], "no primia name"),
        ([uri("primia://coordinator/chest")], "further names"),
    ],
)
def test_odd_names_are_refused_even_when_the_authority_signed_them(authority, names, says):
    forged = forge(authority.key, authority.certificate.subject, new_key(), names)
    with pytest.raises(IdentityError, match=says):
        check_issued(forged, authority.certificate, role=Role.SITE, now=NOW)


def test_the_wrong_key_usage_is_refused(authority):
    for use, ca in (
        (ExtendedKeyUsageOID.SERVER_AUTH, False),
        (ExtendedKeyUsageOID.CLIENT_AUTH, True),
    ):
        forged = forge(
            authority.key,
            authority.certificate.subject,
            new_key(),
            [uri("primia://site/munich")],
            use,
            ca,
        )
        with pytest.raises(IdentityError, match="usage"):
            check_issued(forged, authority.certificate, role=Role.SITE, now=NOW)


def test_dates_are_checked_with_a_hint_that_fits(authority):
    mine = authority.issue_site(make_request(new_key()), MUNICH, now=NOW, valid_days=30)
    with pytest.raises(IdentityError, match=r"not valid before.*check the clock"):
        check_issued(mine, authority.certificate, role=Role.SITE, now=NOW - timedelta(minutes=61))
    with pytest.raises(IdentityError, match=r"expired on 2026-03-31 12:00 UTC.*enrol again"):
        check_issued(mine, authority.certificate, role=Role.SITE, now=NOW + timedelta(days=31))


def test_a_site_certificate_never_outlives_its_authority(authority):
    mine = authority.issue_site(make_request(new_key()), MUNICH, now=NOW, valid_days=10_000)
    assert mine.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_an_enrolment_certificate_can_only_enrol(authority):
    invitation = Invitation(
        address="lab:7443",
        site=MUNICH,
        authority=bytes(32),
        not_after=NOW + timedelta(days=2),
        secret=bytes(range(32)),
    )
    certificate = invitation.certificate()
    assert check_enrolment(certificate, now=NOW) == Identity(Role.ENROL, "munich")
    with pytest.raises(IdentityError, match="expired"):
        check_enrolment(certificate, now=NOW + timedelta(days=3))
    site = authority.issue_site(make_request(new_key()), MUNICH, now=NOW, valid_days=3)
    with pytest.raises(IdentityError, match="cannot enrol"):
        check_enrolment(site, now=NOW)
    stranger = forge(new_key(), common_name("x"), new_key(), [uri("primia://enrol/munich")])
    with pytest.raises(IdentityError, match="not issued"):
        check_enrolment(stranger, now=NOW)


def test_a_key_that_is_not_the_certificates_is_named(authority):
    mine = authority.issue_site(make_request(new_key()), MUNICH, now=NOW, valid_days=3)
    with pytest.raises(IdentityError, match="does not belong"):
        check_key(mine, new_key())


@pytest.mark.parametrize("pem", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\n", b"x" * 20_000])
def test_what_is_no_certificate_is_refused(pem):
    with pytest.raises(IdentityError):
        from_pem(pem)


def test_two_certificates_are_not_one(authority):
    with pytest.raises(IdentityError, match="2 certificates"):
        from_pem(to_pem(authority.certificate) * 2)


def test_the_fingerprint_is_what_openssl_prints(authority):
    text = fingerprint(authority.certificate)
    assert len(text.split(":")) == 32
    assert bytes.fromhex(text.replace(":", "")) == authority.certificate.fingerprint(
        hashes.SHA256()
    )


def test_authority_is_kept_private_and_read_back(tmp_path: Path):
    made = authorities.create(tmp_path / "authority", "chest", now=NOW, valid_days=10)
    folder = tmp_path / "authority"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o600}
    assert authorities.load(folder).fingerprint == made.fingerprint


def test_a_request_not_signed_by_its_own_key_is_refused(authority):
    pem = make_request(new_key())
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(Encoding.DER))
    der[-1] ^= 1
    broken = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(IdentityError):
        authority.issue_site(broken, MUNICH, now=NOW, valid_days=3)


def test_a_second_authority_in_the_same_folder_is_refused(tmp_path: Path):
    authorities.create(tmp_path / "a", "chest", now=NOW, valid_days=10)
    with pytest.raises(StateError, match="already holds an authority"):
        authorities.create(tmp_path / "a", "chest", now=NOW, valid_days=10)


def test_an_authority_whose_making_was_cut_short_can_be_made_again(tmp_path: Path):
    authorities.create(tmp_path / "a", "chest", now=NOW, valid_days=10)
    (tmp_path / "a" / authorities.CERTIFICATE_FILE).unlink()
    made = authorities.create(tmp_path / "a", "chest", now=NOW, valid_days=10)
    assert authorities.load(tmp_path / "a").fingerprint == made.fingerprint


def test_the_same_key_makes_the_same_request():
    key = new_key()
    assert make_request(key) == make_request(key)


def test_the_servers_of_encrypted_prediction_have_roles_and_names_of_their_own(
    authority: Authority,
) -> None:
    for role, name in ((Role.MODEL, "chest"), (Role.DEALER, "trustee")):
        mine = authority.issue(Identity(role, name), new_key().public_key(), now=NOW, valid_days=9)
        found = check_issued(mine, authority.certificate, role=role, now=NOW)
        assert found == Identity(role, name)
        for other in set(Role) - {role}:
            with pytest.raises(IdentityError, match="cannot act as"):
                check_issued(mine, authority.certificate, role=other, now=NOW)
