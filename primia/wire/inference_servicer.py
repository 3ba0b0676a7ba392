"""The services of model owner and dealer: authenticate, translate, call, translate back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from primia.errors import PeerError, StateError
from primia.identity.certificate import Identity, Role
from primia.wire import convert
from primia.wire.calls import Caller, Guarded, only
from primia.wire.channel import CHUNK
from primia.wire.inference_handler import (
    MOST_SESSIONS,
    SEED_BYTES,
    SESSION_BYTES,
    Batch,
    DealerHandler,
    DealtSession,
    Hello,
    ModelHandler,
    Order,
    Terms,
)
from primia.wire.pieces import DATA_TO_MODEL, DEALER_TO_MODEL, MODEL_TO_DATA, carry, cut
from primia.wire.v1 import federation_pb2 as fpb
from primia.wire.v1 import federation_pb2_grpc, inference_pb2_grpc
from primia.wire.v1 import inference_pb2 as pb

STEP_S = 240.0
"""A prediction whose other party is silent for so long is given up; a data owner waits half."""

LONGEST_S = 1800.0
"""A prediction takes no longer in all, however steadily its frames come."""

MOST_DISCARDED = 1000
"""Sessions that a data owner says at once it will not use."""


class EnrolServicer(Guarded[ModelHandler], federation_pb2_grpc.FederationServicer):
    """Enrolment at the model owner, as at a coordinator; nothing else of that service is there."""

    called = "model owner"

    @only(Role.ENROL)
    def Enrol(self, caller: Caller, request: fpb.EnrolRequest) -> fpb.EnrolReply:  # noqa: N802
        reply = self._handler.enrol(*caller, request.csr)
        return fpb.EnrolReply(certificate=reply.certificate, authority=reply.authority)


class InferenceServicer(Guarded[ModelHandler], inference_pb2_grpc.InferenceServicer):
    """The model owner's."""

    called = "model owner"

    @only(Role.SITE)
    def Describe(self, caller: Caller, request: pb.DescribeRequest) -> pb.DescribeReply:  # noqa: N802, ARG002
        found = self._handler.describe(caller[0])
        return pb.DescribeReply(
            program=found.program,
            given=bytes.fromhex(found.given),
            given_size=found.given_size,
            dealer=found.dealer,
            dealer_certificate=found.dealer_certificate,
            films_left=found.films_left,
            most_films=found.most_films,
            noise=found.terms.noise,
            profile=found.terms.profile,
        )

    @only(Role.SITE, streams="down")
    def FetchGiven(self, caller: Caller, request: fpb.FetchRequest) -> Iterator[fpb.Chunk]:  # noqa: N802, ARG002
        path = self._handler.given()
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                if request.offset > size:
                    raise PeerError(f"the weights have {size} bytes; {request.offset} is beyond")
                offset = file.seek(request.offset)
                while data := file.read(CHUNK):
                    yield fpb.Chunk(offset=offset, data=data)
                    offset += len(data)
        except OSError as err:
            raise StateError(f"cannot read {path}: {err.strerror}") from err

    @only(Role.SITE, streams="down", idle_s=STEP_S)
    def Stock(self, caller: Caller, request: pb.StockRequest) -> Iterator[pb.StockReply]:  # noqa: N802
        stages = self._handler.stock(
            *caller,
            program=convert.digest(request.program_hash, "program"),
            sessions=request.sessions,
            films=request.films,
            discarded=_discarded(request.discarded),
        )
        for stage in stages:
            yield pb.StockReply(
                sessions=stage.sessions, received=stage.received, batch=stage.batch or b""
            )

    @only(Role.SITE)
    def Open(self, caller: Caller, request: pb.OpenRequest) -> pb.OpenReply:  # noqa: N802
        opened = {
            exactly(o.session, SESSION_BYTES, "session"): exactly(o.seed, SEED_BYTES, "seed")
            for o in request.opened
        }
        batch = exactly(request.batch, SESSION_BYTES, "batch")
        self._handler.open_sessions(caller[0], batch, opened)
        return pb.OpenReply()

    @only(Role.SITE, streams="both", idle_s=STEP_S)
    def Ask(self, caller: Caller, request: Iterator[pb.AskRequest]) -> Iterator[pb.AskReply]:  # noqa: N802
        first = next(request, None)
        if first is None or first.WhichOneof("body") != "hello":
            raise PeerError("a prediction that does not begin with its handshake")
        hello = _hello(first.hello)
        until = time.monotonic() + LONGEST_S
        with self._handler.asking(caller[0], hello) as machine:
            yield pb.AskReply(accepted=pb.AskAccepted(number=hello.number))
            for piece in carry(
                machine,
                hello.session,
                sends=MODEL_TO_DATA,
                hears=DATA_TO_MODEL,
                incoming=(_piece(message, until) for message in request),
            ):
                yield pb.AskReply(piece=piece)


class DealerServicer(Guarded[DealerHandler], inference_pb2_grpc.DealerServicer):
    """The dealer's."""

    called = "dealer"

    @only(Role.MODEL, streams="down", idle_s=STEP_S)
    def Deal(self, caller: Caller, request: pb.DealRequest) -> Iterator[pb.DealReply]:  # noqa: N802
        batch, sessions = self._handler.deal(caller[0], _order(request))
        yield pb.DealReply(batch=batch_to_pb(batch))
        for session, messages in sessions:
            steps = 0
            for message in messages:
                for piece in cut(session, steps, DEALER_TO_MODEL, message):
                    yield pb.DealReply(piece=piece)
                steps += 1
            yield pb.DealReply(end=pb.DealtEnd(session=session, steps=steps))
        self._handler.dealt(batch.batch)

    @only(Role.SITE, streams="down")
    def Collect(self, caller: Caller, request: pb.CollectRequest) -> Iterator[pb.CollectReply]:  # noqa: N802
        batch = exactly(request.batch, SESSION_BYTES, "batch")
        found = self._handler.collect(*caller, batch)
        yield pb.CollectReply(
            program_hash=bytes.fromhex(found.program),
            model=found.model.uri,
            films=found.films,
            batch=batch_to_pb(found.batch),
        )


def exactly(data: bytes, length: int, what: str) -> bytes:
    """Refuse an id or a seed of another length. Raises PeerError."""
    if len(data) != length:
        raise PeerError(f"a {what} of {len(data)} bytes, need {length}; use one version of primia")
    return data


def batch_to_pb(batch: Batch) -> pb.DealtBatch:
    """A batch with the seeds of one side."""
    return pb.DealtBatch(
        batch=batch.batch,
        sessions=[
            pb.DealtSession(session=s.session, number=s.number, seed=s.seed) for s in batch.sessions
        ],
    )


def batch_from_pb(message: pb.DealtBatch) -> Batch:
    """The reverse, checked. Raises PeerError."""
    if not 0 < len(message.sessions) <= 2 * MOST_SESSIONS:
        raise PeerError(f"a batch of {len(message.sessions)} sessions")
    sessions = tuple(
        DealtSession(
            exactly(s.session, SESSION_BYTES, "session"),
            s.number,
            exactly(s.seed, SEED_BYTES, "seed"),
        )
        for s in message.sessions
    )
    if len({s.session for s in sessions}) != len(sessions):
        raise PeerError("a batch that names a session twice")
    return Batch(exactly(message.batch, SESSION_BYTES, "batch"), sessions)


def identity_from_uri(uri: str, role: Role) -> Identity:
    """Who a URI names. Raises PeerError unless it is of this role."""
    scheme, _, name = uri.partition(f"://{role.value}/")
    try:
        if scheme != "primia":
            raise ValueError
        return Identity(role, name)
    except ValueError as err:
        raise PeerError(f"{convert.clean(uri)!r} names no {role.value}") from err


def terms(noise: float, profile: str) -> Terms:
    """Checked. Raises PeerError."""
    try:
        return Terms(noise, profile)  # type: ignore[arg-type]
    except ValueError as err:
        raise PeerError(
            f"{convert.clean(str(err))}; both sides need one version of primia"
        ) from err


def _piece(message: Any, until: float) -> pb.Piece:
    if time.monotonic() > until:  # a trickle would hold the turn of another data owner
        raise PeerError(
            f"this prediction took over {LONGEST_S / 60:.0f} minutes; ask about fewer films at once"
        )
    if message.WhichOneof("body") != "piece":
        raise PeerError("something else than a frame in the middle of a prediction")
    piece: pb.Piece = message.piece
    return piece


def _discarded(sessions: Sequence[bytes]) -> tuple[bytes, ...]:
    if len(sessions) > MOST_DISCARDED:
        raise PeerError(f"{len(sessions)} sessions discarded at once; at most {MOST_DISCARDED}")
    return tuple(exactly(s, SESSION_BYTES, "session") for s in sessions)


def _hello(message: pb.AskHello) -> Hello:
    return Hello(
        program=convert.digest(message.program_hash, "program"),
        session=exactly(message.session, SESSION_BYTES, "session"),
        number=message.number,
        films=message.films,
        discarded=_discarded(message.discarded),
    )


def _order(message: pb.DealRequest) -> Order:
    return Order(
        program=message.program,
        mask_seed=exactly(message.mask_seed, SEED_BYTES, "seed"),
        data_owner=identity_from_uri(message.data_owner, Role.SITE),
        fingerprint=message.fingerprint,
        films=message.films,
        numbers=tuple(message.numbers),
        terms=terms(message.noise, message.profile),
    )
