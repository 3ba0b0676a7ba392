"""The hospital's side of enrolment, without the network: make a request, judge the reply."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from primia.errors import IdentityError
from primia.identity.authority import common_name
from primia.identity.certificate import (
    CALLED,
    Role,
    check_issued,
    check_key,
    fingerprint,
    from_pem,
    identity_of,
)
from primia.identity.invitation import Invitation


@dataclass(frozen=True)
class Enrolled:
    """What a site keeps after a reply that held: its certificate and whom to trust.

    coordinator: whoever served the reply; a model owner, where predictions are enrolled for.
    """

    certificate: x509.Certificate
    authority: x509.Certificate
    coordinator: x509.Certificate


def make_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate request (PKCS #10, PEM) for the public half of `key`.

    It names nobody: the coordinator takes the name from the invitation. The same key gives the
    same bytes (RFC 6979), so that a repeat after a lost reply is known as one.
    """
    request = x509.CertificateSigningRequestBuilder().subject_name(common_name("primia site"))
    signed = request.sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    return signed.public_bytes(serialization.Encoding.PEM)


def check_reply(
    invitation: Invitation,
    key: ec.EllipticCurvePrivateKey,
    *,
    certificate: bytes,
    authority: bytes,
    served_by: bytes,
    now: datetime,
    server: Role = Role.COORDINATOR,
    roles: tuple[Role, ...] = (Role.SITE,),
) -> Enrolled:
    """Decide whether the reply comes from the coordinator that the code meant.

    certificate, authority: PEM, from the reply. served_by: PEM of the certificate that the
    server showed in the handshake of the very connection that brought the reply. server: the role
    that it must have; roles: those that ours may be for.
    Raises IdentityError; nothing of the reply may be kept then.
    """
    root = from_pem(authority)
    if not hmac.compare_digest(root.fingerprint(hashes.SHA256()), invitation.authority):
        raise IdentityError(
            f"the server at {invitation.address} belongs to another authority (fingerprint "
            f"{fingerprint(root)}), not to that of the invitation ({invitation.fingerprint}); "
            f"nothing was stored; ask the {CALLED[server]}'s operator by telephone"
        )
    coordinator = from_pem(served_by)
    check_issued(coordinator, root, role=server, now=now)
    mine = from_pem(certificate)
    claimed = identity_of(mine).role
    identity = check_issued(mine, root, role=claimed if claimed in roles else roles[0], now=now)
    if identity.name != invitation.site:
        raise IdentityError(f"the reply names {identity}, the invitation {invitation.site}")
    check_key(mine, key)
    return Enrolled(certificate=mine, authority=root, coordinator=coordinator)
