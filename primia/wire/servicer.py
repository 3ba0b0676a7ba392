"""The service's methods: authenticate, translate, call the handler, translate back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any

import grpc
import structlog
from cryptography import x509

from primia import tally
from primia.errors import IdentityError, PeerError, StateError, TooManyCalls
from primia.identity.certificate import (
    Identity,
    Role,
    check_enrolment,
    check_issued,
    from_pem,
    identity_of,
    issuer_of,
)
from primia.identity.heads import Countersigned
from primia.wire import convert, convert_heads
from primia.wire.channel import CHUNK
from primia.wire.errors_table import NAME_KEY, status_of
from primia.wire.handler import POLL_S, FederationHandler, UploadKey
from primia.wire.limits import ENROL_LIMITS, IDLE_S, SITE_LIMITS, Gate, IdleWatch, Seldom
from primia.wire.uploads import UploadHeader, Uploads
from primia.wire.v1 import federation_pb2 as pb
from primia.wire.v1 import federation_pb2_grpc

log = structlog.get_logger(__name__)

Caller = tuple[Identity, x509.Certificate]
Method = Callable[..., Any]


def _only(role: Role, *, streams: str = "") -> Callable[[Method], Method]:
    """Let only `role` call this method, and end it in the error table's terms.

    streams: "up" or "down" for a method with a stream. It is given up when nothing flows, later
    than the site would.

    The method gets the caller beside its own arguments; without this mark it would not even
    have the signature that gRPC calls, so no method can be left open by oversight.
    """

    def mark(method: Method) -> Method:
        @functools.wraps(method)
        def unary(self: FederationServicer, request: Any, context: grpc.ServicerContext) -> Any:
            with _answered(context), self.calling(context, role) as caller:
                return method(self, caller, _single(request))

        @functools.wraps(method)
        def up(self: FederationServicer, request: Any, context: grpc.ServicerContext) -> Any:
            with (
                _answered(context),
                self.calling(context, role) as caller,
                IdleWatch(context.cancel, 2 * IDLE_S) as watch,
            ):
                return method(self, caller, _watched(request, watch))

        @functools.wraps(method)
        def down(
            self: FederationServicer, request: Any, context: grpc.ServicerContext
        ) -> Iterator[Any]:
            with (
                _answered(context),
                self.calling(context, role) as caller,
                IdleWatch(context.cancel, 2 * IDLE_S) as watch,
            ):
                yield from _watched(method(self, caller, _single(request)), watch)

        return {"": unary, "up": up, "down": down}[streams]

    return mark


def _single(requests: Iterator[Any]) -> Any:
    """The message of a call that has one; every call is served as a stream (`wire.server`)."""
    message = next(requests, None)
    if message is None:
        raise PeerError("a call without its message")
    return message


def _watched(stream: Iterator[Any], watch: IdleWatch) -> Iterator[Any]:
    for item in stream:
        watch.touch()
        yield item
        watch.touch()


@contextmanager
def _answered(context: grpc.ServicerContext) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError:
        raise  # the caller's stream broke: gRPC's own affair
    except Exception as err:  # a bug is logged by status_of and never shown to the caller
        code, message, name = status_of(err)
        context.set_trailing_metadata(((NAME_KEY, name),))
        context.abort(code, message)


class FederationServicer(federation_pb2_grpc.FederationServicer):
    """Adapter between gRPC and a `FederationHandler`."""

    def __init__(
        self,
        handler: FederationHandler,
        roots: Callable[[], tuple[x509.Certificate, ...]],
        now: Callable[[], datetime],
    ) -> None:
        """roots: the authorities that are valid now, asked at every call."""
        self._handler = handler
        self._roots = roots
        self._now = now
        self._uploads = Uploads(handler)
        self._gate = Gate()
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

    @_only(Role.ENROL)
    def Enrol(self, caller: Caller, request: pb.EnrolRequest) -> pb.EnrolReply:  # noqa: N802
        reply = self._handler.enrol(*caller, request.csr)
        return pb.EnrolReply(certificate=reply.certificate, authority=reply.authority)

    @_only(Role.SITE)
    def GetStudy(self, caller: Caller, request: pb.GetStudyRequest) -> pb.StudyReply:  # noqa: N802, ARG002
        study = self._handler.study(caller[0])
        return pb.StudyReply(
            plan=study.plan,
            signature=study.signature,
            coordinator=study.coordinator,
            sites=study.sites,
            succession=None
            if study.succession is None
            else pb.Succession(
                authority=study.succession.authority, endorsement=study.succession.endorsement
            ),
            clock=self._now().timestamp(),
        )

    @_only(Role.SITE)
    def LastHeads(self, caller: Caller, request: pb.LastHeadsRequest) -> pb.LastHeadsReply:  # noqa: N802
        held = self._handler.last_heads(caller[0], _seen(request))
        return pb.LastHeadsReply(heads=None if held is None else convert_heads.signed_to_pb(held))

    @_only(Role.SITE)
    def Countersign(self, caller: Caller, request: pb.CountersignRequest) -> pb.Countersigned:  # noqa: N802
        heads = convert_heads.signed_from_pb(request.heads)
        found = self._handler.countersign(*caller, heads, _seen(request))
        return convert_heads.countersigned_to_pb(found)

    @_only(Role.SITE)
    def Renew(self, caller: Caller, request: pb.RenewRequest) -> pb.RenewReply:  # noqa: N802, ARG002
        return pb.RenewReply(certificate=self._handler.renew(caller[0]))

    @_only(Role.SITE)
    def Attend(self, caller: Caller, request: pb.AttendRequest) -> pb.AttendReply:  # noqa: N802
        found = self._handler.attend(caller[0], request.after, POLL_S)
        reply = pb.AttendReply(serial=found.serial, directory=found.directory, wait=pb.Wait())
        if found.instruction is not None:
            reply.instruction.CopyFrom(convert.instruction_to_pb(found.instruction))
        elif found.study_over is not None:
            reply.study_over.reason = convert.clean(found.study_over)
        return reply

    @_only(Role.SITE)
    def SendAnswer(self, caller: Caller, request: Any) -> pb.AnswerReply:  # noqa: N802
        self._handler.answer(caller[0], convert.answer_from_pb(request))
        return pb.AnswerReply()

    @_only(Role.SITE, streams="down")
    def FetchModel(self, caller: Caller, request: pb.FetchRequest) -> Iterator[pb.Chunk]:  # noqa: N802
        path = self._handler.model(caller[0], convert.digest(request.digest, "model"))
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                if request.offset > size:
                    raise PeerError(f"the model has {size} bytes; {request.offset} is beyond")
                offset = file.seek(request.offset)
                while data := file.read(CHUNK):
                    self._handler.check_standing(caller[0])
                    tally.add("bytes_down", len(data))
                    yield pb.Chunk(offset=offset, data=data)
                    offset += len(data)
        except OSError as err:
            raise StateError(f"cannot read the model {path}: {err.strerror}") from err

    @_only(Role.SITE)
    def UploadStatus(self, caller: Caller, request: pb.UploadKey) -> pb.UploadStatusReply:  # noqa: N802
        received, complete = self._uploads.status(caller[0], _key(request))
        return pb.UploadStatusReply(received=received, complete=complete)

    @_only(Role.SITE, streams="up")
    def Upload(self, caller: Caller, request: Iterator[pb.UploadFrame]) -> pb.UploadReply:  # noqa: N802
        first = next(request, None)
        if first is None or first.WhichOneof("body") != "header":
            raise PeerError("an upload that does not begin with its header")
        header = UploadHeader(
            key=_key(first.header.key),
            length=first.header.length,
            sha256=convert.digest(first.header.sha256, "upload"),
            offset=first.header.offset,
        )
        self._uploads.receive(caller[0], header, self._chunks(caller[0], request))
        return pb.UploadReply()

    def _chunks(self, identity: Identity, frames: Iterator[pb.UploadFrame]) -> Iterator[bytes]:
        for frame in frames:
            self._handler.check_standing(identity)
            data = frame.data  # protobuf copies at every look
            if frame.WhichOneof("body") != "data" or not 0 < len(data) <= CHUNK:
                raise PeerError(f"an upload frame that is not 1 to {CHUNK} bytes of data")
            tally.add("bytes_up", len(data))
            yield data


def _claimed(context: grpc.ServicerContext) -> str:
    """Who a refused caller says it is, or else from where it calls (without the port)."""
    try:
        pems: list[Any] = list(context.auth_context().get("x509_pem_cert", ()))
        return identity_of(from_pem(pems[0])).uri
    except (IdentityError, IndexError):
        return convert.clean(context.peer().rpartition(":")[0])


def _seen(request: pb.LastHeadsRequest | pb.CountersignRequest) -> Countersigned | None:
    return convert_heads.countersigned_from_pb(request.last) if request.HasField("last") else None


def _key(message: pb.UploadKey) -> UploadKey:
    return UploadKey(
        round=convert.round_from_pb(message.round), session=convert.session(message.session)
    )
