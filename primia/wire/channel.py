"""A site's end of the connection: mutual TLS to the coordinator, limits, keepalive."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import grpc

from primia.errors import IdentityError
from primia.identity.certificate import (
    HOSTS,
    Role,
    check_enrolment,
    check_issued,
    check_key,
    from_pem,
    identity_of,
    issuer_of,
    roots_from_pem,
)
from primia.identity.invitation import split_address
from primia.identity.keyfile import key_from_pem

MAX_MESSAGE = 4 << 20  # bytes; streams carry what is larger
CHUNK = 1 << 20  # bytes; the fastest size over mutual TLS that stays below MAX_MESSAGE
KEEPALIVE_S = 20  # a black hole is noticed after this and the next
KEEPALIVE_ANSWER_S = 10

OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_ANSWER_S * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A new channel must dial anew: shared connections would outlive the certificate in it.
    ("grpc.use_local_subchannel_pool", 1),
    # Back-off between rounds is the daemon's; gRPC's own (up to two minutes) would hide a
    # coordinator that is back.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


@dataclass(frozen=True)
class ClientTls:
    """What a site dials with, all PEM.

    authority: whom to trust; the study authority's certificate, during a rotation both, the newer
    last (while enrolling, the very certificate that the server showed, judged when the reply is
    there).
    server: the role that the other end must have.
    pinned: where the authority's word is not enough, the one certificate that the server may show.
    """

    authority: bytes
    certificate: bytes
    key: bytes = field(repr=False)
    server: Role = Role.COORDINATOR
    pinned: bytes = b""

    @property
    def trusted(self) -> bytes:
        """What the server's certificate is checked against."""
        return self.pinned or self.authority

    def check_own(self, *, now: datetime) -> None:
        """Check our own files before dialling: gRPC says only "socket closed" for all of these.

        Raises IdentityError: missing, out of date, of another authority, not for this key.
        """
        if not self.certificate.strip():
            raise IdentityError(
                "we have no certificate to show; enrol first, with the code of an invitation"
            )
        certificate = from_pem(self.certificate)
        check_key(certificate, key_from_pem(self.key))
        if identity_of(certificate).role is Role.ENROL:
            check_enrolment(certificate, now=now)
        else:
            issuer = issuer_of(certificate, roots_from_pem(self.authority))
            # Towards the dealer a model owner is a client, too.
            dials = Role.MODEL if identity_of(certificate).role is Role.MODEL else Role.SITE
            check_issued(certificate, issuer, role=dials, now=now)


def connect(address: str, tls: ClientTls) -> grpc.Channel:
    """A channel to the server at host:port; it dials at the first call.

    It must show a certificate of `tls.authority` for the fixed name of its role: a site's
    certificate carries no such name.
    """
    split_address(address)
    options = [*OPTIONS, ("grpc.ssl_target_name_override", HOSTS[tls.server])]
    credentials = grpc.ssl_channel_credentials(tls.trusted, tls.key, tls.certificate)
    return grpc.secure_channel(address, credentials, options=options)
