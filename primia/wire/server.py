"""The coordinator's end: one port, mutual TLS from the first byte."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import grpc
import structlog
from cryptography import x509

from primia.errors import PrimiaError, StateError
from primia.identity.certificate import roots_from_pem
from primia.identity.invitation import split_address
from primia.wire.channel import KEEPALIVE_ANSWER_S, KEEPALIVE_S, MAX_MESSAGE
from primia.wire.handler import FederationHandler
from primia.wire.servicer import FederationServicer
from primia.wire.v1 import federation_pb2_grpc

log = structlog.get_logger(__name__)

OPTIONS = [
    # Without this a second coordinator on the same port would get half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_concurrent_streams", 16),  # on one connection, that is: of one site
    ("grpc.server_handshake_timeout_ms", 10_000),
    # A connection is made anew now and then, so a new certificate is seen and a stale one goes;
    # what runs on it may end first. Sites notice nothing: the call goes on over the next one.
    ("grpc.max_connection_age_grace_ms", 600_000),
    ("grpc.max_connection_idle_ms", 900_000),
    ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_ANSWER_S * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Sites ping every KEEPALIVE_S; the default minimum (5 minutes) would hang up on them.
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_S * 500),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_S * 500),
    ("grpc.http2.max_pings_without_data", 0),
]


CONNECTION_AGE_S = 3600.0
_CONNECTIONS_PER_SITE = 4  # a site has one; a link that broke may leave some behind


@dataclass(frozen=True, kw_only=True)
class ServerTls:
    """What the coordinator serves with, all PEM.

    authority: the study's, during a rotation both.
    anchors: enrolment certificates of invitations that have not expired, used ones included (so
    that a site whose reply was lost can ask again, and one that comes too late hears why).
    """

    certificate: bytes
    authority: bytes
    key: bytes = field(repr=False)
    anchors: tuple[bytes, ...] = ()


class Server:
    """A running server; `stop` it, or use it in a `with`."""

    def __init__(self, server: grpc.Server, host: str, port: int) -> None:
        self._server = server
        self.port = port
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def stop(self, grace_s: float = 2.0) -> None:
        """Take no more calls, give running ones `grace_s`, then cut them off.

        Threads inside the handler are not killed: wake those that wait in `attend` first.
        """
        self._server.stop(grace_s).wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(0)


def serve(
    handler: FederationHandler,
    *,
    listen: str,
    tls: Callable[[], ServerTls],
    max_sites: int = 100,
    connection_age_s: float = CONNECTION_AGE_S,
    roots: Callable[[], tuple[x509.Certificate, ...]] | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Server:
    """Start to serve `handler` at host:port (port 0 in tests: the system's choice).

    roots: the authorities that are valid now, asked at every call; without it those that `tls`
    gives at the start. The rest is as in `start`.
    """
    at_start = roots_from_pem(tls().authority)
    servicer = FederationServicer(handler, roots or (lambda: at_start), now)
    return start(
        [(federation_pb2_grpc.add_FederationServicer_to_server, servicer)],
        listen=listen, tls=tls, max_sites=max_sites, connection_age_s=connection_age_s,
    )  # fmt: skip


def start(
    services: Sequence[tuple[Callable[[Any, Any], None], object]],
    *,
    listen: str,
    tls: Callable[[], ServerTls],
    max_sites: int = 100,
    connection_age_s: float = CONNECTION_AGE_S,
) -> Server:
    """Serve several services at one port.

    services: the generated `add_…_to_server` of each, with its servicer.
    tls: asked again at every new connection, so invitations and a renewed certificate need no
    restart.
    Raises StateError when the address cannot be had.
    """
    host, _ = split_address(listen, port_zero=True)
    # Each site holds one call that waits and makes others beside it; the rest is what one that
    # takes all it may (`limits`) leaves to the others. A thread is made when it is needed.
    threads = 4 * max_sites + 16
    server = grpc.server(
        ThreadPoolExecutor(threads, thread_name_prefix="rpc"),
        options=[
            *OPTIONS,
            ("grpc.max_connection_age_ms", int(1000 * connection_age_s)),
            ("grpc.max_allowed_incoming_connections", _CONNECTIONS_PER_SITE * max_sites + 16),
        ],
        maximum_concurrent_rpcs=threads,
    )
    for add, servicer in services:
        _register(add, servicer, server)
    credentials = grpc.dynamic_ssl_server_credentials(
        _configuration(tls()),
        lambda: _configuration_or_last(tls),  # type: ignore[arg-type,return-value]
        require_client_authentication=True,
    )
    try:
        bound = server.add_secure_port(listen, credentials)
    except RuntimeError as err:
        raise _cannot_listen(listen) from err
    if bound == 0:
        raise _cannot_listen(listen)
    server.start()
    return Server(server, host, bound)


def _register(add: Callable[[Any, Any], None], servicer: object, server: grpc.Server) -> None:
    """Serve every method as one that takes a stream; on the wire one message is a stream of one.

    gRPC would wait for a single message in one of our threads before it calls the method, so who
    withholds it would hold as many threads as it likes, with no limit asked.
    """
    methods = _Methods()
    add(servicer, methods)
    handlers = {name: _streamed(handler) for name, handler in methods.found.items()}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(methods.service, handlers),)
    )


class _Methods:
    """Takes what the generated code hands to a server."""

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same methods again."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """By name."""
        self.service, self.found = service, handlers


def _streamed(handler: Any) -> Any:
    if handler.request_streaming:
        return handler
    codec = handler.request_deserializer, handler.response_serializer
    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(handler.unary_stream, *codec)
    return grpc.stream_unary_rpc_method_handler(handler.unary_unary, *codec)


def _configuration(tls: ServerTls) -> grpc.ServerCertificateConfiguration:
    roots = b"\n".join((tls.authority, *tls.anchors))
    return grpc.ssl_server_certificate_configuration([(tls.key, tls.certificate)], roots)


def _configuration_or_last(
    tls: Callable[[], ServerTls],
) -> grpc.ServerCertificateConfiguration | None:
    try:
        return _configuration(tls())
    except PrimiaError as err:
        log.error("certificates_not_read", reason=str(err))
        return None  # gRPC goes on with the last ones


def check_address(listen: str) -> None:
    """Raise StateError when nobody can listen at host:port now; ConfigError for no address."""
    host, port = split_address(listen, port_zero=True)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as err:
        raise _cannot_listen(listen) from err


def _cannot_listen(listen: str) -> StateError:
    return StateError(
        f"cannot listen at {listen}: the port is in use or the address is not this machine's; "
        "is the same program running already? Choose another port or stop it"
    )
