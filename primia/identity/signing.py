"""Signatures over statements, each under a label, so that none can be taken for another."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

_DOMAIN = b"primia signature v1\0"


def sign(key: ec.EllipticCurvePrivateKey, label: bytes, statement: bytes) -> bytes:
    """ECDSA P-256 with SHA-256 over (domain, label, statement); DER, at most 72 bytes.

    Deterministic (RFC 6979): a nonce that repeats by chance would give the key away.
    label: 1 to 255 bytes, one for each kind of statement.
    """
    return key.sign(
        _framed(label, statement), ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    )


def verify(
    signer: x509.Certificate | ec.EllipticCurvePublicKey,
    label: bytes,
    statement: bytes,
    signature: bytes,
) -> bool:
    """Whether `signature` is the signer's over this label and statement.

    Says nothing about who the signer is: check the certificate first.
    """
    key = signer.public_key() if isinstance(signer, x509.Certificate) else signer
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, _framed(label, statement), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _framed(label: bytes, statement: bytes) -> bytes:
    if not 0 < len(label) < 256:
        raise ValueError("a label has 1 to 255 bytes")
    return _DOMAIN + bytes([len(label)]) + label + statement
