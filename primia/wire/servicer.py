"""The service's methods: authenticate, translate, call the handler, translate back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from cryptography import x509

from primia import tally
from primia.errors import PeerError, StateError
from primia.identity.certificate import Identity, Role
from primia.identity.heads import Countersigned
from primia.wire import convert, convert_heads
from primia.wire.calls import Caller, Guarded, only
from primia.wire.channel import CHUNK
from primia.wire.handler import POLL_S, FederationHandler, UploadKey
from primia.wire.uploads import UploadHeader, Uploads
from primia.wire.v1 import federation_pb2 as pb
from primia.wire.v1 import federation_pb2_grpc


class FederationServicer(Guarded[FederationHandler], federation_pb2_grpc.FederationServicer):
    """Adapter between gRPC and a `FederationHandler`."""

    def __init__(
        self,
        handler: FederationHandler,
        roots: Callable[[], tuple[x509.Certificate, ...]],
        now: Callable[[], datetime],
    ) -> None:
        """roots: the authorities that are valid now, asked at every call."""
        super().__init__(handler, roots, now)
        self._uploads = Uploads(handler)

    @only(Role.ENROL)
    def Enrol(self, caller: Caller, request: pb.EnrolRequest) -> pb.EnrolReply:  # noqa: N802
        reply = self._handler.enrol(*caller, request.csr)
        return pb.EnrolReply(certificate=reply.certificate, authority=reply.authority)

    @only(Role.SITE)
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

    @only(Role.SITE)
    def LastHeads(self, caller: Caller, request: pb.LastHeadsRequest) -> pb.LastHeadsReply:  # noqa: N802
        held = self._handler.last_heads(caller[0], _seen(request))
        return pb.LastHeadsReply(heads=None if held is None else convert_heads.signed_to_pb(held))

    @only(Role.SITE)
    def Countersign(self, caller: Caller, request: pb.CountersignRequest) -> pb.Countersigned:  # noqa: N802
        heads = convert_heads.signed_from_pb(request.heads)
        found = self._handler.countersign(*caller, heads, _seen(request))
        return convert_heads.countersigned_to_pb(found)

    @only(Role.SITE)
    def Renew(self, caller: Caller, request: pb.RenewRequest) -> pb.RenewReply:  # noqa: N802, ARG002
        return pb.RenewReply(certificate=self._handler.renew(caller[0]))

    @only(Role.SITE)
    def Attend(self, caller: Caller, request: pb.AttendRequest) -> pb.AttendReply:  # noqa: N802
        found = self._handler.attend(caller[0], request.after, POLL_S)
        reply = pb.AttendReply(serial=found.serial, directory=found.directory, wait=pb.Wait())
        if found.instruction is not None:
            reply.instruction.CopyFrom(convert.instruction_to_pb(found.instruction))
        elif found.study_over is not None:
            reply.study_over.reason = convert.clean(found.study_over)
        return reply

    @only(Role.SITE)
    def SendAnswer(self, caller: Caller, request: Any) -> pb.AnswerReply:  # noqa: N802
        self._handler.answer(caller[0], convert.answer_from_pb(request))
        return pb.AnswerReply()

    @only(Role.SITE, streams="down")
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

    @only(Role.SITE)
    def UploadStatus(self, caller: Caller, request: pb.UploadKey) -> pb.UploadStatusReply:  # noqa: N802
        received, complete = self._uploads.status(caller[0], _key(request))
        return pb.UploadStatusReply(received=received, complete=complete)

    @only(Role.SITE, streams="up")
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


def _seen(request: pb.LastHeadsRequest | pb.CountersignRequest) -> Countersigned | None:
    return convert_heads.countersigned_from_pb(request.last) if request.HasField("last") else None


def _key(message: pb.UploadKey) -> UploadKey:
    return UploadKey(
        round=convert.round_from_pb(message.round), session=convert.session(message.session)
    )
