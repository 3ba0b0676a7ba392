"""A new study authority in place of an old one: who may name it, and who believes it.

The old authority's key endorses the new certificate. A site that holds the old certificate can
check that by itself, so nobody has to telephone. The endorsement is a signed statement, not a
cross-certificate: the old authority has path length 0 and stands above leaves only.
"""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from primia.errors import IdentityError
from primia.identity.authority import Authority
from primia.identity.certificate import check_validity, fingerprint, is_issued_by
from primia.identity.signing import sign, verify

LABEL = b"authority rotation v1"


def endorse(old: Authority, successor: x509.Certificate) -> bytes:
    """The old authority's word that `successor` follows it."""
    return sign(old.key, LABEL, _statement(old.certificate, successor))


def check_successor(
    trusted: x509.Certificate, successor: x509.Certificate, endorsement: bytes, *, now: datetime
) -> None:
    """Check that `successor` may be trusted as `trusted` is.

    Raises IdentityError: not endorsed by the key of `trusted`, no authority, or out of date.
    """
    check_validity(trusted, "the authority's certificate", now=now)
    if not verify(trusted, LABEL, _statement(trusted, successor), endorsement):
        raise IdentityError(
            f"the coordinator names a new study authority ({fingerprint(successor)}) that the one "
            f"trusted here ({fingerprint(trusted)}) did not endorse; it is not trusted. Ask the "
            "coordinator's operator by telephone"
        )
    _check_root(successor)
    check_validity(successor, "the new study authority's certificate", now=now)


def _statement(old: x509.Certificate, successor: x509.Certificate) -> bytes:
    der = successor.public_bytes(serialization.Encoding.DER)
    return old.fingerprint(hashes.SHA256()) + der


def _check_root(certificate: x509.Certificate) -> None:
    """Signed by itself, on P-256, an authority over leaves alone, as `create` makes it."""
    key = certificate.public_key()
    try:
        limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as err:
        raise IdentityError("the new study authority's certificate is malformed") from err
    on_curve = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    over_leaves = limits.ca and limits.path_length == 0 and usage.key_cert_sign
    if not (on_curve and over_leaves and is_issued_by(certificate, certificate)):
        raise IdentityError("the new study authority's certificate is not that of an authority")
