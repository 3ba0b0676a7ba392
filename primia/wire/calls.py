"""What every method of every service does first: who calls, may they, and how errors are told."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

import grpc
import structlog
from cryptography import x509

from primia.errors import IdentityError, PeerError, TooManyCalls
from primia.identity.certificate import (
    Identity,
    Role,
    check_enrolment,
    check_issued,
    from_pem,
    identity_of,
    issuer_of,
)
from primia.wire.convert import clean
from primia.wire.errors_table import NAME_KEY, status_of
from primia.wire.limits import ENROL_LIMITS, IDLE_S, SITE_LIMITS, Gate, IdleWatch, Seldom

log = structlog.get_logger(__name__)

Caller = tuple[Identity, x509.Certificate]
Method = Callable[..., Any]


def only(role: Role, *, streams: str = "", idle_s: float = 0.0) -> Callable[[Method], Method]:
    """Let only `role` call this method, and end it in the error table's terms.

    streams: "up", "down" or "both" for a method with a stream. It is given up when nothing flows
    for `idle_s`, or twice as long as a site waits.

    The method gets the caller beside its own arguments; without this mark it would not even
    have the signature that gRPC calls, so no method can be left open by oversight.
    """

    def mark(method: Method) -> Method:
        @functools.wraps(method)
        def unary(self: Guarded[Any], request: Any, context: grpc.ServicerContext) -> Any:
            with _answered(context, self.called), self.calling(context, role) as caller:
                return method(self, caller, single(request))

        @functools.wraps(method)
        def up(self: Guarded[Any], request: Any, context: grpc.ServicerContext) -> Any:
            with (
                _answered(context, self.called),
                self.calling(context, role) as caller,
                IdleWatch(context.cancel, idle_s or 2 * IDLE_S) as watch,
            ):
                return method(self, caller, watched(request, watch))

        @functools.wraps(method)
        def down(self: Guarded[Any], request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with (
                _answered(context, self.called),
                self.calling(context, role) as caller,
                IdleWatch(context.cancel, idle_s or 2 * IDLE_S) as watch,
            ):
                yield from watched(method(self, caller, single(request)), watch)

        @functools.wraps(method)
        def both(self: Guarded[Any], request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with (
                _answered(context, self.called),
                self.calling(context, role) as caller,
                IdleWatch(context.cancel, idle_s or 2 * IDLE_S) as watch,
            ):
                yield from watched(method(self, caller, watched(request, watch)), watch)

        return {"": unary, "up": up, "down": down, "both": both}[streams]

    return mark


def single(requests: Iterator[Any]) -> Any:
    """The message of a call that has one; every call is served as a stream (`wire.server`)."""
    message = next(requests, None)
    if message is None:
        raise PeerError("a call without its message")
    return message


def watched(stream: Iterator[Any], watch: IdleWatch) -> Iterator[Any]:
    for item in stream:
        watch.touch()
        yield item
        watch.touch()


@contextmanager
def _answered(context: grpc.ServicerContext, called: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError:
        raise  # the caller's stream broke: gRPC's own affair
    except Exception as err:  # a bug is logged by status_of and never shown to the caller
        code, message, name = status_of(err, called)
        context.set_trailing_metadata(((NAME_KEY, name),))
        context.abort(code, message)


class Doorkeeper(Protocol):
    """Who decides about callers."""

    def authorise(self, identity: Identity, certificate: x509.Certificate) -> None:
        """Called first in every call; its certificate's form, issuer and dates hold already.

        Raise IdentityError to refuse.
        """

    def refused(self, caller: str, reason: str) -> None:
        """A call was refused, by its certificate or by `authorise`; `caller` is only a claim."""


Handler = TypeVar("Handler", bound=Doorkeeper)


class Guarded(Generic[Handler]):
    """A service whose methods are marked with `only`; `handler` decides and answers."""

    called = "coordinator"  # what messages call this server

    def __init__(
        self,
        handler: Handler,
        roots: Callable[[], tuple[x509.Certificate, ...]],
        now: Callable[[], datetime],
    ) -> None:
        """roots: the authorities that are valid now, asked at every call."""
        self._handler = handler
        self._roots = roots
        self._now = now
        self._gate = Gate(called=self.called)
        self._seldom = Seldom()

    @contextmanager
    def calling(self, context: grpc.ServicerContext, role: Role) -> Iterator[Caller]:
        """Who calls, from the certificate of the handshake, checked anew at every call.

        The handshake may be days old and trusts more anchors than the authority. The call counts
        against its caller's limits while it runs, before it costs a look into the database.
        """
        with ExitStack() as running:
            try:
                identity, certificate = self._authenticate(context, role)
                limits = ENROL_LIMITS if role is Role.ENROL else SITE_LIMITS
                running.enter_context(self._gate.passing(str(identity), limits))
                self._handler.authorise(identity, certificate)
            except (IdentityError, TooManyCalls) as err:
                if (left_out := self._seldom.left_out()) is not None:
                    log.warning(
                        "call_refused", peer=context.peer(), reason=str(err), left_out=left_out
                    )
                self._handler.refused(_claimed(context), str(err))
                raise
            yield identity, certificate

    def _authenticate(self, context: grpc.ServicerContext, role: Role) -> Caller:
        pems: list[Any] = list(context.auth_context().get("x509_pem_cert", ()))
        if len(pems) != 1:
            raise IdentityError("the call came without a client certificate")
        certificate = from_pem(pems[0])
        found = identity_of(certificate)
        if found.role is not role:
            raise IdentityError(f"{found} may not make this call; it is for the role {role.value}")
        if role is Role.ENROL:
            return check_enrolment(certificate, now=self._now()), certificate
        authority = issuer_of(certificate, self._roots())
        return check_issued(certificate, authority, role=role, now=self._now()), certificate


def _claimed(context: grpc.ServicerContext) -> str:
    """Who a refused caller says it is, or else from where it calls (without the port)."""
    try:
        pems: list[Any] = list(context.auth_context().get("x509_pem_cert", ()))
        return identity_of(from_pem(pems[0])).uri
    except (IdentityError, IndexError):
        return clean(context.peer().rpartition(":")[0])
