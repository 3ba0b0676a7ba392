"""The study authority: one key that says who is the coordinator and who is a site."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from primia.errors import IdentityError, StateError
from primia.identity import keyfile
from primia.identity.certificate import (
    BACKDATED,
    HOSTS,
    USES,
    Identity,
    Role,
    check_key,
    check_validity,
    fingerprint,
    from_pem,
    to_pem,
)
from primia.types import SiteId

KEY_FILE = "authority.key"
CERTIFICATE_FILE = "authority.pem"
_MAX_CSR = 8 << 10


@dataclass(frozen=True)
class Authority:
    """A self-signed certificate (path length 0: it signs leaves only) and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def fingerprint(self) -> str:
        """What the two people compare on the telephone."""
        return fingerprint(self.certificate)

    def issue_coordinator(
        self, key: ec.EllipticCurvePublicKey, study: str, *, now: datetime, valid_days: int
    ) -> x509.Certificate:
        """A server certificate for the coordinator of `study`."""
        return self.issue(Identity(Role.COORDINATOR, study), key, now=now, valid_days=valid_days)

    def issue_site(
        self, csr: bytes, site: SiteId, *, now: datetime, valid_days: int
    ) -> x509.Certificate:
        """A client certificate for `site`, the name of the invitation.

        csr: PKCS #10 in PEM. Only its public key is used; whatever names it asks for are ignored.
        Raises IdentityError when it cannot be read or its signature does not hold.
        """
        return self.renew_site(key_of_request(csr), site, now=now, valid_days=valid_days)

    def renew_site(
        self, key: ec.EllipticCurvePublicKey, site: SiteId, *, now: datetime, valid_days: int
    ) -> x509.Certificate:
        """A client certificate for `site` and a key that it has proved to hold."""
        return self.issue(Identity(Role.SITE, site), key, now=now, valid_days=valid_days)

    def issue(
        self, identity: Identity, key: ec.EllipticCurvePublicKey, *, now: datetime, valid_days: int
    ) -> x509.Certificate:
        """A certificate of any role, for a key that its owner has proved to hold."""
        check_validity(self.certificate, "the authority's certificate", now=now)
        further = [x509.DNSName(HOSTS[identity.role])] if identity.role in HOSTS else []
        end = min(now + timedelta(days=valid_days), self.certificate.not_valid_after_utc)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri), *further]
        return (
            x509.CertificateBuilder()
            .subject_name(common_name(str(identity)))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(USES[identity.role]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )


def create(folder: Path, study: str, *, now: datetime, valid_days: int) -> Authority:
    """Make the authority of `study` in `folder` (0700; files 0600) and return it.

    Raises StateError when one is there already: a second one would orphan every site.
    """
    # The certificate is written last: a key alone never issued anything and may go.
    if (folder / CERTIFICATE_FILE).exists():
        raise StateError(f"{folder} already holds an authority; choose another folder")
    key = keyfile.new_key()
    name = common_name(f"primia study {study}")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=valid_days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    keyfile.store_key(folder / KEY_FILE, key)
    keyfile.store(folder / CERTIFICATE_FILE, to_pem(certificate))
    return Authority(certificate, key)


def load(folder: Path) -> Authority:
    """Read the authority back. Raises IdentityError (modes, mismatch) or StateError (missing)."""
    key = keyfile.load_key(folder / KEY_FILE)
    certificate = from_pem(keyfile.load(folder / CERTIFICATE_FILE))
    check_key(certificate, key)
    return Authority(certificate, key)


def common_name(text: str) -> x509.Name:
    """A subject for people who look at a certificate; nothing in primia reads it (64 at most)."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Either for signing certificates, or for signing handshakes and statements."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def key_of_request(csr: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a certificate request (PKCS #10, PEM) whose owner holds the private one.

    Raises IdentityError.
    """
    if len(csr) > _MAX_CSR:
        raise IdentityError(f"a certificate request of {len(csr)} bytes; {_MAX_CSR} is the limit")
    try:
        request = x509.load_pem_x509_csr(csr)
        key = request.public_key()
        holds = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as err:
        raise IdentityError("the certificate request cannot be read; enrol again") from err
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError("the certificate request's key is not on the curve P-256")
    if not holds:
        raise IdentityError("the certificate request is not signed by its own key")
    return key
