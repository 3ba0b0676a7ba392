"""A site's calls to the coordinator, in plain Python."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import ec

from primia.errors import PeerError, PrimiaError, Unreachable
from primia.identity.certificate import to_pem
from primia.identity.enrolment import Enrolled, check_reply, make_request
from primia.identity.invitation import Invitation
from primia.identity.keyfile import key_to_pem
from primia.protocol.messages import Answer
from primia.types import Digest
from primia.wire import convert
from primia.wire.channel import CHUNK, ClientTls, connect
from primia.wire.diagnosis import diagnose, served_certificate
from primia.wire.errors_table import error_of, was_named
from primia.wire.handler import POLL_S, Attendance, StudyBundle, UploadKey
from primia.wire.v1 import federation_pb2 as pb
from primia.wire.v1 import federation_pb2_grpc

CALL_S = 30.0
SLOWEST_BYTES_PER_S = 64 << 10  # a link slower than this is as good as none
ATTEMPTS = 5  # in a row without a byte of progress, for streams


class FederationClient:
    """One site's connection. Methods may be called from several threads.

    Every call has a deadline. They raise Unreachable (with the reason; try again later), or
    what the coordinator answered: IdentityError, PeerError, RoundFailed, PolicyRefused.
    """

    def __init__(
        self,
        address: str,
        tls: ClientTls,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        pause_s: float = 1.0,
    ) -> None:
        """Check our own certificate and prepare the channel; nothing is dialled yet.

        pause_s: mean pause before a broken stream is taken up again, with jitter.
        Raises IdentityError when our own files cannot be right.
        """
        tls.check_own(now=now())
        self.address = address
        self._tls = tls
        self._pause_s = pause_s
        self._closed = threading.Event()
        self._channel = connect(address, tls)
        self._stub = federation_pb2_grpc.FederationStub(self._channel)  # type: ignore[no-untyped-call]
        # Takes frames that are serialised already (see `_frames`).
        self._upload = self._channel.stream_unary(
            "/primia.wire.v1.Federation/Upload",
            request_serializer=None,
            response_deserializer=pb.UploadReply.FromString,
        )

    def close(self) -> None:
        """Hang up; calls in other threads end with Unreachable at once."""
        self._closed.set()
        self._channel.close()

    def get_study(self) -> StudyBundle:
        """The signed plan and the certificates of the roster; nothing of it is checked here."""
        reply = self._call(self._stub.GetStudy, pb.GetStudyRequest())
        return StudyBundle(
            plan=reply.plan,
            signature=reply.signature,
            coordinator=reply.coordinator,
            sites=tuple(reply.sites),
        )

    def attend(self, after: int) -> Attendance:
        """Wait up to about 20 s for something newer than serial `after`; it may be nothing."""
        reply = self._call(self._stub.Attend, pb.AttendRequest(after=after), POLL_S + CALL_S)
        match reply.WhichOneof("body"):
            case "instruction":
                body = convert.instruction_from_pb(reply.instruction)
                return Attendance(reply.serial, instruction=body)
            case "study_over":
                return Attendance(reply.serial, study_over=convert.clean(reply.study_over.reason))
            case "wait":
                return Attendance(reply.serial)
        raise PeerError("a reply without content; both sides need the same version of primia")

    def answer(self, answer: Answer) -> None:
        """Send one answer; on return the coordinator has it on record."""
        self._call(self._stub.SendAnswer, convert.answer_to_pb(answer))

    def fetch_model(
        self,
        digest: Digest,
        *,
        max_bytes: int,
        on_progress: Callable[[int], None] = lambda _received: None,
    ) -> bytes:
        """The model with this digest, resumed over broken links, checked.

        Raises PeerError when it is longer than `max_bytes` or its SHA-256 is another.
        """
        pieces: list[bytes] = []
        received = 0
        hasher = hashlib.sha256()

        def attempt() -> None:
            nonlocal received
            request = pb.FetchRequest(digest=bytes.fromhex(digest), offset=received)
            call = self._stub.FetchModel(request, timeout=_deadline_s(max_bytes))
            try:
                for chunk in call:
                    piece = chunk.data  # protobuf copies at every look
                    if chunk.offset != received or not 0 < len(piece) <= CHUNK:
                        raise PeerError("a piece of the model that does not follow the last one")
                    if received + len(piece) > max_bytes:
                        raise PeerError(f"a model of more than the {max_bytes} bytes expected")
                    pieces.append(piece)
                    hasher.update(piece)
                    received += len(piece)
                    on_progress(received)
            finally:
                call.cancel()  # no effect on one that has ended

        self._persist(attempt, lambda: received)
        if hasher.hexdigest() != digest:
            raise PeerError(
                f"the model that arrived is not {digest}: its digest is {hasher.hexdigest()}"
            )
        return b"".join(pieces)

    def upload(
        self,
        key: UploadKey,
        data: bytes | bytearray | memoryview,
        *,
        on_progress: Callable[[int], None] = lambda _sent: None,
    ) -> None:
        """Send a masked vector, resumed over broken links; on return it is on record, once.

        data: contiguous bytes, at least one. `on_progress` hears the bytes handed to gRPC.
        """
        view = memoryview(data).cast("B")
        digest = hashlib.sha256(view).digest()
        key_pb = pb.UploadKey(round=convert.round_to_pb(key.round), session=key.session)
        received = 0

        def attempt() -> None:
            nonlocal received
            status = self._stub.UploadStatus(key_pb, timeout=CALL_S)
            received = len(view) if status.complete else status.received
            if status.complete:
                on_progress(len(view))
                return
            offset = received if received <= len(view) else 0
            header = pb.UploadHeader(key=key_pb, length=len(view), sha256=digest, offset=offset)
            frames = _frames(header, view, on_progress)
            self._upload(frames, timeout=_deadline_s(len(view)))

        self._persist(attempt, lambda: received)

    def _call(self, method: Any, request: Any, timeout_s: float = CALL_S) -> Any:
        try:
            return method(request, timeout=timeout_s)
        except (grpc.RpcError, ValueError) as err:
            raise self._explain(err) from err

    def _persist(self, attempt: Callable[[], None], progress: Callable[[], int]) -> None:
        """Repeat `attempt` while the link breaks, up to ATTEMPTS times without progress."""
        best, idle = progress(), 0
        while True:
            try:
                return attempt()
            except (grpc.RpcError, ValueError) as err:
                error = error_of(err) if isinstance(err, grpc.RpcError) else None
                idle = 1 if progress() > best else idle + 1
                best = max(best, progress())
                if not isinstance(error, Unreachable) or idle >= ATTEMPTS or self._closed.is_set():
                    raise self._explain(err) from err
            # Jitter, so that sites cut off together do not come back together.
            self._closed.wait(self._pause_s * random.uniform(0.5, 1.5))  # noqa: S311

    def _explain(self, err: Exception) -> PrimiaError:
        if self._closed.is_set():
            return Unreachable("this site hung up")
        if not isinstance(err, grpc.RpcError):
            raise err
        error = error_of(err)
        unexplained = err.code() is grpc.StatusCode.UNAVAILABLE and not was_named(err)
        return diagnose(self.address, self._tls) if unexplained else error


def enrol(
    invitation: Invitation,
    key: ec.EllipticCurvePrivateKey,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Enrolled:
    """Turn an invitation into a certificate for `key`; keep the key on disk before calling.

    We know the authority by its fingerprint only. So we look which certificate the server
    shows, demand exactly that one in the handshake, and judge it when the reply has brought the
    authority's. Until then nothing secret has left: a server in the middle sees a public key
    and a proof, bound to its own connection, that we know the code.
    Raises IdentityError (nothing may be stored) or Unreachable.
    """
    certificate = to_pem(invitation.certificate())
    key_pem = key_to_pem(invitation.key())
    # The invitation's own dates, before the network is asked for anything.
    own = ClientTls(authority=certificate, certificate=certificate, key=key_pem)
    own.check_own(now=now())
    served_by = served_certificate(invitation.address)
    tls = ClientTls(authority=served_by, certificate=certificate, key=key_pem)
    client = FederationClient(invitation.address, tls, now=now)
    try:
        reply = client._call(client._stub.Enrol, pb.EnrolRequest(csr=make_request(key)))
    finally:
        client.close()
    return check_reply(
        invitation,
        key,
        certificate=reply.certificate,
        authority=reply.authority,
        served_by=served_by,
        now=now(),
    )


def _frames(
    header: pb.UploadHeader, view: memoryview, on_progress: Callable[[int], None]
) -> Iterator[bytes]:
    """Serialised `pb.UploadFrame`s: the header, then the bytes behind its offset.

    A frame of data is its field's tag and length with the bytes behind them. Put together here
    it is copied once, through a message three times (measured: a sixth of the whole stream).
    """
    yield pb.UploadFrame(header=header).SerializeToString()
    for start in range(header.offset, len(view), CHUNK):
        piece = view[start : start + CHUNK]
        yield b"".join((_data_prefix(len(piece)), piece))
        on_progress(start + len(piece))


@lru_cache(maxsize=2)
def _data_prefix(length: int) -> bytes:
    """What stands before `length` bytes of data in a serialised frame."""
    return pb.UploadFrame(data=bytes(length)).SerializeToString()[:-length]


def _deadline_s(size: int) -> float:
    return CALL_S + size / SLOWEST_BYTES_PER_S
