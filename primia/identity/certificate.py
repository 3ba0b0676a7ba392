"""Read a certificate and decide whether it may speak for a role.

Identity is the one URI in the subject alternative name; the common name is never looked at.

    primia://site/<site>              a hospital, client only
    primia://coordinator/<study>      the coordinator, server only
    primia://enrol/<site>             knowledge of an invitation, self-signed, may only enrol
    primia://model/<service>          who serves encrypted predictions; dials the dealer, too
    primia://dealer/<name>            who deals for encrypted predictions, server only
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from primia.errors import IdentityError
from primia.types import SiteId, sha256, site_id

COORDINATOR_HOST = "coordinator.primia.internal"
"""The one DNS name in a coordinator's certificate, whatever its address; clients ask for it."""

MODEL_HOST = "model.primia.internal"
DEALER_HOST = "dealer.primia.internal"
"""The same for the two servers of encrypted prediction."""

BACKDATED = timedelta(hours=1)
"""Certificates start this long before they are made, so that a slow clock can use them at once."""

_STUDY = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_MAX_PEM = 16 << 10


class Role(StrEnum):
    """What a certificate lets its owner be."""

    SITE = "site"
    COORDINATOR = "coordinator"
    ENROL = "enrol"
    MODEL = "model"
    DEALER = "dealer"


USES = {
    Role.SITE: (ExtendedKeyUsageOID.CLIENT_AUTH,),
    Role.ENROL: (ExtendedKeyUsageOID.CLIENT_AUTH,),
    Role.COORDINATOR: (ExtendedKeyUsageOID.SERVER_AUTH,),
    Role.MODEL: (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    Role.DEALER: (ExtendedKeyUsageOID.SERVER_AUTH,),
}
"""Which end of a connection a role's certificate is for."""

HOSTS = {
    Role.COORDINATOR: COORDINATOR_HOST,
    Role.MODEL: MODEL_HOST,
    Role.DEALER: DEALER_HOST,
}
"""The name that a client asks a server of this role for."""

CALLED = {
    Role.COORDINATOR: "coordinator",
    Role.MODEL: "model owner",
    Role.DEALER: "dealer",
}
"""What a message calls a server of this role."""


@dataclass(frozen=True)
class Identity:
    """Who a certificate names: a role, and a site's or a study's name."""

    role: Role
    name: str

    def __post_init__(self) -> None:
        if self.role in {Role.COORDINATOR, Role.MODEL}:
            if not _STUDY.fullmatch(self.name):
                raise ValueError(f"{self.name!r} is not a study name")
        else:
            site_id(self.name)

    @property
    def uri(self) -> str:
        """The subject alternative name that carries this identity."""
        return f"primia://{self.role.value}/{self.name}"

    @property
    def site(self) -> SiteId:
        """The site's name. A server has none: asking is a bug (ValueError)."""
        if self.role in HOSTS:
            raise ValueError(f"{self} is no site")
        return SiteId(self.name)

    def __str__(self) -> str:
        return f"{self.role.value} {self.name}"


def from_pem(pem: bytes) -> x509.Certificate:
    """Read exactly one certificate. Raises IdentityError for anything else."""
    if len(pem) > _MAX_PEM:
        raise IdentityError(f"a certificate of {len(pem)} bytes; at most {_MAX_PEM} are read")
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError as err:
        raise IdentityError("not a certificate in PEM form") from err
    if len(found) != 1:
        raise IdentityError(f"{len(found)} certificates where one is expected")
    return found[0]


def roots_from_pem(pem: bytes) -> tuple[x509.Certificate, ...]:
    """The study authorities that a site trusts: one, or during a rotation two, the newer last.

    Raises IdentityError for anything else.
    """
    try:
        found = x509.load_pem_x509_certificates(pem) if len(pem) <= 2 * _MAX_PEM else []
    except ValueError as err:
        raise IdentityError("not certificates in PEM form") from err
    if not 1 <= len(found) <= 2:
        raise IdentityError(f"{len(found)} authorities where one or two are expected")
    return tuple(found)


def to_pem(certificate: x509.Certificate) -> bytes:
    """The certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER form as 32 colon-separated pairs, for two people to compare."""
    return certificate.fingerprint(hashes.SHA256()).hex(":")


def key_fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the public key, in the form of `fingerprint`; a renewal keeps it."""
    der = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return bytes.fromhex(sha256(der)).hex(":")


def issuer_of(certificate: x509.Certificate, roots: Sequence[x509.Certificate]) -> x509.Certificate:
    """The one of `roots` that signed `certificate`; the newest if none did.

    `check_issued` with what this returns then says that it was not issued by it.
    """
    return next((r for r in reversed(roots) if is_issued_by(certificate, r)), roots[-1])


@lru_cache(maxsize=4096)
def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` signed `certificate`; says nothing of roles and dates.

    Remembered, because every call of a site asks, and the answer for two certificates is always
    the same.
    """
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def identity_of(certificate: x509.Certificate) -> Identity:
    """The identity a certificate *claims*; `check_issued` and `check_enrolment` decide if it holds.

    Raises IdentityError unless there is exactly one URI, of a known form, and no other name
    beside it (but for the coordinator's fixed DNS name: a site must not carry that one).
    """
    try:
        names = list(
            certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        )
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as err:
        raise IdentityError("the certificate has no readable subject alternative name") from err
    uris = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    others = [name.value for name in names if not isinstance(name, x509.UniformResourceIdentifier)]
    if len(uris) != 1:
        raise IdentityError(f"the certificate has {len(uris)} URI names; exactly one is expected")
    scheme, _, rest = uris[0].partition("://")
    role, _, name = rest.partition("/")
    try:
        if scheme != "primia":
            raise ValueError("not a primia name")
        identity = Identity(Role(role), name)
    except ValueError as err:
        raise IdentityError(f"the certificate is for {uris[0]!r}, which is no primia name") from err
    if others != ([HOSTS[identity.role]] if identity.role in HOSTS else []):
        raise IdentityError(f"the certificate of {identity} carries further names; it is not ours")
    return identity


def check_issued(
    certificate: x509.Certificate, authority: x509.Certificate, *, role: Role, now: datetime
) -> Identity:
    """Check that the study authority itself gave `certificate` to a `role`; return who it is.

    Issued by the authority *directly*: other anchors stand in the coordinator's TLS trust store
    (enrolment certificates), so "the handshake went through" says nothing about the role.
    Raises IdentityError with the reason.
    """
    identity = identity_of(certificate)
    if identity.role is not role:
        raise IdentityError(f"a certificate for {identity} cannot act as {role.value}")
    _check_signed(certificate, authority, f"the certificate of {identity}")
    _check_profile(certificate, role)
    check_validity(authority, "the authority's certificate", now=now)
    check_validity(certificate, f"the certificate of {identity}", now=now)
    return identity


def check_enrolment(certificate: x509.Certificate, *, now: datetime) -> Identity:
    """Check the form of an enrolment certificate: signed by itself, for enrolling only, in date.

    It proves knowledge of *a* code; the caller looks up by fingerprint which one, and if it is
    still open. Raises IdentityError with the reason.
    """
    identity = identity_of(certificate)
    if identity.role is not Role.ENROL:
        raise IdentityError(f"a certificate for {identity} cannot enrol")
    _check_signed(certificate, certificate, "the enrolment certificate")
    _check_profile(certificate, Role.ENROL)
    check_validity(certificate, "the invitation", now=now)
    return identity


def check_validity(certificate: x509.Certificate, what: str, *, now: datetime) -> None:
    """Raise IdentityError when `now` (aware) is outside the certificate's dates."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        raise IdentityError(
            f"{what} is not valid before {start:%Y-%m-%d %H:%M} UTC and the clock says "
            f"{now:%Y-%m-%d %H:%M} UTC; check the clock of this machine"
        )
    if now > end:
        raise IdentityError(
            f"{what} expired on {end:%Y-%m-%d %H:%M} UTC (the clock says {now:%Y-%m-%d %H:%M} "
            "UTC); ask for a new invitation and enrol again"
        )


def check_key(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Raise IdentityError unless `key` is the private half of the certificate's key."""
    if certificate.public_key() != key.public_key():
        raise IdentityError(
            "the private key does not belong to the certificate; restore the file that does, "
            "or enrol again"
        )


def _check_signed(certificate: x509.Certificate, issuer: x509.Certificate, what: str) -> None:
    if not is_issued_by(certificate, issuer):
        raise IdentityError(
            f"{what} was not issued by the authority trusted here (fingerprint "
            f"{fingerprint(issuer)})"
        )


def _check_profile(certificate: x509.Certificate, role: Role) -> None:
    """A leaf on P-256, for this role's end of a connection and nothing else."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError("the certificate's key is not on the curve P-256")
    try:
        extensions = certificate.extensions
        uses = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        is_ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as err:
        raise IdentityError("the certificate does not say what it may be used for") from err
    if is_ca or uses != list(USES[role]):
        raise IdentityError(f"the certificate's key usage is not that of a {role.value}")
