"""A site's calls to the coordinator, in plain Python."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import grpc
import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from primia import tally
from primia.errors import PeerError, PrimiaError, Unreachable
from primia.identity.certificate import Role, to_pem
from primia.identity.enrolment import Enrolled, check_reply, make_request
from primia.identity.heads import Countersigned, SignedHeads
from primia.identity.invitation import Invitation
from primia.identity.keyfile import key_to_pem
from primia.protocol.messages import Answer
from primia.types import Digest
from primia.wire import convert, convert_heads
from primia.wire.channel import CHUNK, MAX_MESSAGE, ClientTls, connect
from primia.wire.diagnosis import diagnose, served_certificate
from primia.wire.errors_table import error_of, was_named
from primia.wire.handler import POLL_S, Attendance, StudyBundle, Succession, UploadKey
from primia.wire.limits import IDLE_S, IdleWatch, Rate
from primia.wire.v1 import federation_pb2 as pb
from primia.wire.v1 import federation_pb2_grpc

log = structlog.get_logger(__name__)

CALL_S = 30.0
IN_FLIGHT = 8 << 20  # bytes; at most so much of a stream lies in the buffers of the way
ATTEMPTS = 5  # in a row without a byte of progress, for streams


class FederationClient:
    """One site's connection. Methods may be called from several threads.

    A call has a deadline, which grows with its bytes; a stream lives as long as bytes flow, and
    is taken up again where it broke. They raise Unreachable (with the reason; try again later), or
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
        self.address = address
        self._now = now
        self._pause_s = pause_s
        self._closed = threading.Event()
        self._up, self._down = Rate(), Rate()
        self._dial_with(tls)

    def _dial_with(self, tls: ClientTls) -> None:
        tls.check_own(now=self._now())
        self._tls = tls
        self._channel = connect(self.address, tls)
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

    def use(self, tls: ClientTls) -> None:
        """Go on with another certificate: a gRPC channel keeps the one it was made with.

        Between two calls only; one in another thread ends with Unreachable. Raises IdentityError,
        and goes on with the certificate it has.
        """
        before = self._channel
        self._dial_with(tls)
        before.close()
        if self._closed.is_set():  # somebody hung up meanwhile, on the channel of before
            self._channel.close()

    def get_study(self) -> StudyBundle:
        """The signed plan and the certificates of the roster; nothing of it is checked here."""
        reply = self._call(self._stub.GetStudy, pb.GetStudyRequest(), CALL_S, MAX_MESSAGE)
        return StudyBundle(
            plan=reply.plan,
            signature=reply.signature,
            coordinator=reply.coordinator,
            sites=tuple(reply.sites),
            succession=Succession(reply.succession.authority, reply.succession.endorsement)
            if reply.HasField("succession")
            else None,
            clock=reply.clock or None,  # an older coordinator does not say
        )

    def last_heads(self, seen: Countersigned | None) -> SignedHeads | None:
        """What the coordinator holds of our books; nothing of it is checked here."""
        request = pb.LastHeadsRequest(last=_countersigned_or_none(seen))
        reply = self._call(self._stub.LastHeads, request)
        return convert_heads.signed_from_pb(reply.heads) if reply.HasField("heads") else None

    def countersign(self, heads: SignedHeads, seen: Countersigned | None) -> Countersigned:
        """Hand our heads over. Raises PeerError when they are not newer than what is held."""
        request = pb.CountersignRequest(
            heads=convert_heads.signed_to_pb(heads), last=_countersigned_or_none(seen)
        )
        return convert_heads.countersigned_from_pb(self._call(self._stub.Countersign, request))

    def renew(self) -> bytes:
        """A new certificate (PEM) for the key in use; nothing of it is checked here."""
        return bytes(self._call(self._stub.Renew, pb.RenewRequest()).certificate)

    def attend(self, after: int) -> Attendance:
        """Wait up to about 20 s for something newer than serial `after`; it may be nothing."""
        reply = self._call(self._stub.Attend, pb.AttendRequest(after=after), POLL_S + CALL_S)
        serial, directory = reply.serial, reply.directory
        match reply.WhichOneof("body"):
            case "instruction":
                body = convert.instruction_from_pb(reply.instruction)
                return Attendance(serial, instruction=body, directory=directory)
            case "study_over":
                reason = convert.clean(reply.study_over.reason)
                return Attendance(serial, study_over=reason, directory=directory)
            case "wait":
                return Attendance(serial, directory=directory)
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
            began, before = time.monotonic(), received
            call = self._stub.FetchModel(request)
            watch = IdleWatch(call.cancel)
            try:
                with self._watched(watch):
                    for chunk in call:
                        watch.touch()
                        piece = chunk.data  # protobuf copies at every look
                        if chunk.offset != received or not 0 < len(piece) <= CHUNK:
                            raise PeerError("a piece of the model that does not follow the last")
                        if received + len(piece) > max_bytes:
                            raise PeerError(f"a model of more than the {max_bytes} bytes expected")
                        pieces.append(piece)
                        hasher.update(piece)
                        received += len(piece)
                        tally.add("bytes_down", len(piece))
                        on_progress(received)
            finally:
                call.cancel()  # no effect on one that has ended
                self._down.note(received - before, time.monotonic() - began)

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
        began: float | None = None

        def attempt() -> None:
            nonlocal received, began
            status = self._stub.UploadStatus(key_pb, timeout=self._deadline_s(key_pb.ByteSize()))
            confirmed = len(view) if status.complete else status.received
            if began is not None:
                self._up.note(confirmed - received, time.monotonic() - began)
            received = confirmed
            if status.complete:
                on_progress(len(view))
                return
            offset = received if received <= len(view) else 0
            header = pb.UploadHeader(key=key_pb, length=len(view), sha256=digest, offset=offset)
            began = time.monotonic()
            watch = IdleWatch(lambda: call.cancel())  # type: ignore[no-untyped-call]

            def moved(sent: int) -> None:
                watch.touch()
                if sent == len(view):  # handed over, not arrived
                    watch.limit_s = IDLE_S + self._up.seconds_for(min(sent, IN_FLIGHT))
                on_progress(sent)

            frames = _frames(header, view, moved, self._up)
            call = self._upload.future(frames)
            with self._watched(watch):
                call.result()
            self._up.note(len(view) - offset, time.monotonic() - began)

        self._persist(attempt, lambda: received)

    @contextmanager
    def _watched(self, watch: IdleWatch) -> Iterator[None]:
        """Say it in our words when `watch` gives a stream up. Raises Unreachable then."""
        with watch:
            try:
                yield
            except (grpc.RpcError, grpc.FutureCancelledError) as err:
                if watch.gave_up and not self._closed.is_set():
                    raise Unreachable(
                        f"nothing has moved on the link to {self.address} for {watch.limit_s:.0f} "
                        "s; a firewall or a dead line swallows it, or the coordinator hangs"
                    ) from err
                raise

    def _call(
        self, method: Any, request: Any, timeout_s: float = CALL_S, reply_size: int = 0
    ) -> Any:
        """One request, one reply; `reply_size` is what the reply may have, where that is much."""
        try:
            deadline_s = timeout_s - CALL_S + self._deadline_s(request.ByteSize(), reply_size)
            return method(request, timeout=deadline_s)
        except (grpc.RpcError, ValueError) as err:
            raise self._explain(err) from err

    def _deadline_s(self, size: int, reply_size: int = 0) -> float:
        return CALL_S + self._up.seconds_for(size) + self._down.seconds_for(reply_size)

    def _persist(self, attempt: Callable[[], None], progress: Callable[[], int]) -> None:
        """Repeat `attempt` while the link breaks, up to ATTEMPTS times without progress."""
        best, idle = progress(), 0
        while True:
            try:
                return attempt()
            except (grpc.RpcError, grpc.FutureCancelledError, Unreachable, ValueError) as err:
                error = error_of(err) if isinstance(err, grpc.RpcError) else err
                idle = 1 if progress() > best else idle + 1
                best = max(best, progress())
                if not isinstance(error, Unreachable) or idle >= ATTEMPTS or self._closed.is_set():
                    raise self._explain(err) from err
            log.warning("stream_broken", why=str(error), arrived=best)
            tally.add("retries")
            # Jitter, so that sites cut off together do not come back together.
            self._closed.wait(self._pause_s * random.uniform(0.5, 1.5))  # noqa: S311

    def _explain(self, err: Exception) -> PrimiaError:
        if self._closed.is_set():
            return Unreachable("this site hung up")
        if isinstance(err, Unreachable):
            return err
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
    server: Role = Role.COORDINATOR,
    roles: tuple[Role, ...] = (Role.SITE,),
) -> Enrolled:
    """Turn an invitation into a certificate for `key`; keep the key on disk before calling.

    server: the role of who enrols; roles: those that our certificate may be for.

    We know the authority by its fingerprint only. So we look which certificate the server
    shows, demand exactly that one in the handshake, and judge it when the reply has brought the
    authority's. Until then nothing secret has left: a server in the middle sees a public key
    and a proof, bound to its own connection, that we know the code.
    Raises IdentityError (nothing may be stored) or Unreachable.
    """
    certificate = to_pem(invitation.certificate())
    key_pem = key_to_pem(invitation.key())
    # The invitation's own dates, before the network is asked for anything.
    own = ClientTls(authority=certificate, certificate=certificate, key=key_pem, server=server)
    own.check_own(now=now())
    served_by = served_certificate(invitation.address, server=server)
    tls = ClientTls(authority=served_by, certificate=certificate, key=key_pem, server=server)
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
        server=server,
        roles=roles,
    )


def _countersigned_or_none(seen: Countersigned | None) -> pb.Countersigned | None:
    return None if seen is None else convert_heads.countersigned_to_pb(seen)


def _frames(
    header: pb.UploadHeader, view: memoryview, on_progress: Callable[[int], None], rate: Rate
) -> Iterator[bytes]:
    """Serialised `pb.UploadFrame`s: the header, then the bytes behind its offset.

    A frame of data is its field's tag and length with the bytes behind them. Put together here
    it is copied once, through a message three times (measured: a sixth of the whole stream).
    """
    yield pb.UploadFrame(header=header).SerializeToString()
    start, size = header.offset, 0
    while start < len(view):
        size = rate.piece(size, CHUNK)
        piece = view[start : start + size]
        yield b"".join((_data_prefix(len(piece)), piece))
        start += len(piece)
        tally.add("bytes_up", len(piece))
        on_progress(start)


@lru_cache(maxsize=16)
def _data_prefix(length: int) -> bytes:
    """What stands before `length` bytes of data in a serialised frame."""
    return pb.UploadFrame(data=bytes(length)).SerializeToString()[:-length]
