"""The calls of encrypted prediction: to the model owner, and to the dealer."""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Any, TypeVar

import grpc

from primia.errors import PeerError, PrimiaError, Unreachable
from primia.identity.certificate import CALLED, Role
from primia.types import Digest
from primia.wire import convert
from primia.wire.channel import CHUNK, ClientTls, connect
from primia.wire.client import CALL_S
from primia.wire.diagnosis import diagnose
from primia.wire.errors_table import error_of, was_named
from primia.wire.inference_handler import (
    SESSION_BYTES,
    Batch,
    Collected,
    Description,
    Hello,
    Order,
    Stocked,
)
from primia.wire.inference_servicer import (
    STEP_S,
    batch_from_pb,
    exactly,
    identity_from_uri,
    terms,
)
from primia.wire.limits import IdleWatch
from primia.wire.pieces import DATA_TO_MODEL, DEALER_TO_MODEL, MODEL_TO_DATA, Wanted, carry, join
from primia.wire.v1 import federation_pb2 as fpb
from primia.wire.v1 import inference_pb2 as pb
from primia.wire.v1 import inference_pb2_grpc

Result = TypeVar("Result")

WAIT_S = STEP_S / 2
"""A stream on which the other side is silent for so long is given up."""


class _Link:
    """A channel, and errors in our words. Raises IdentityError when our own files cannot be right.

    Methods raise Unreachable with the reason, or what the other side answered.
    """

    def __init__(self, address: str, tls: ClientTls) -> None:
        tls.check_own(now=datetime.now(UTC))
        self.address = address
        self._tls = tls
        self._channel = connect(address, tls)

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as err:
            raise self._explain(err) from err

    def _explain(self, err: grpc.RpcError) -> PrimiaError:
        if err.code() is grpc.StatusCode.UNAVAILABLE and not was_named(err):
            return diagnose(self.address, self._tls)
        return error_of(err)

    @contextmanager
    def _stream(self, call: Any) -> Iterator[Iterator[Any]]:
        """The messages of `call`, given up when none comes for long."""
        who = f"the {CALLED[self._tls.server]} at {self.address}"
        watch = IdleWatch(call.cancel, WAIT_S)
        messages = _Counted(call, watch)
        with self._told(), watch:
            try:
                yield iter(messages)
            except grpc.RpcError as err:
                if watch.gave_up:
                    raise Unreachable(
                        f"{who} was silent for {watch.limit_s:.0f} s; it hangs or the line is "
                        "dead: try again"
                    ) from err
                if messages.came and not was_named(err):
                    raise Unreachable(
                        f"the connection to {who} broke half-way: it was stopped, or the line was "
                        "cut; nothing of it counts, try again"
                    ) from err
                raise
            finally:
                call.cancel()  # no effect on one that has ended


class ModelLink(_Link):
    """A data owner's connection to the model owner."""

    def __init__(self, address: str, tls: ClientTls) -> None:
        super().__init__(address, tls)
        self._stub = inference_pb2_grpc.InferenceStub(self._channel)  # type: ignore[no-untyped-call]

    def describe(self) -> Description:
        """What is served; nothing of it is checked here."""
        with self._told():
            found = self._stub.Describe(pb.DescribeRequest(), timeout=CALL_S)
        return Description(
            program=found.program,
            given=convert.digest(found.given, "given"),
            given_size=found.given_size,
            dealer=convert.clean(found.dealer),
            dealer_certificate=found.dealer_certificate,
            films_left=found.films_left,
            most_films=found.most_films,
            terms=terms(found.noise, found.profile),
        )

    def fetch_given(
        self, digest: Digest, size: int, into: IO[bytes], on_bytes: Callable[[int], None]
    ) -> None:
        """Write the masked weights to `into`. Raises PeerError when they are others."""
        hasher, received = hashlib.sha256(), 0
        with self._stream(self._stub.FetchGiven(fpb.FetchRequest())) as chunks:
            for chunk in chunks:
                data = chunk.data
                received += len(data)
                if chunk.offset + len(data) != received or len(data) > CHUNK or received > size:
                    raise PeerError("masked weights that do not follow, or too many of them")
                into.write(data)
                hasher.update(data)
                on_bytes(received)
        if hasher.hexdigest() != digest:
            raise PeerError(
                "the masked weights that arrived are not those that the model owner described; "
                "try again, and tell its operator"
            )

    def stock(
        self, program: Digest, sessions: int, films: int, discarded: tuple[bytes, ...] = ()
    ) -> Iterator[Stocked]:
        """Have a batch dealt; the last one has its id."""
        request = pb.StockRequest(
            program_hash=bytes.fromhex(program),
            sessions=sessions,
            films=films,
            discarded=discarded,
        )
        with self._stream(self._stub.Stock(request)) as replies:
            for reply in replies:
                batch = exactly(reply.batch, SESSION_BYTES, "batch") if reply.batch else None
                yield Stocked(reply.sessions, reply.received, batch)

    def open_sessions(self, batch: bytes, opened: dict[bytes, bytes]) -> None:
        """Show the seeds of the sessions that are checked; on return the others may be used."""
        shown = [pb.OpenedSession(session=s, seed=seed) for s, seed in opened.items()]
        with self._told():
            # Each opened session is dealt anew over there, which takes a second or more.
            limit_s = CALL_S + WAIT_S * max(1, len(opened))
            self._stub.Open(pb.OpenRequest(batch=batch, opened=shown), timeout=limit_s)

    def ask(
        self,
        hello: Hello,
        machine: Generator[Wanted, bytes, Result],
        *,
        on_accepted: Callable[[], None],
        on_bytes: Callable[[int, int], None],
    ) -> Result:
        """Run our machine against the model owner's; returns what ours returns.

        on_accepted: the session was taken over there, too. on_bytes: sent and received with each
        frame. Raises PeerError for a frame that does not fit, and what the other side answered.
        """
        outgoing: queue.SimpleQueue[pb.AskRequest | None] = queue.SimpleQueue()
        outgoing.put(pb.AskRequest(hello=_hello(hello)))
        with self._stream(self._stub.Ask(iter(outgoing.get, None))) as replies:
            try:
                first = next(replies, None)
                if first is None or first.accepted.number != hello.number:
                    raise PeerError("the model owner did not take up this session; ask again")
                on_accepted()
                carried = carry(
                    machine,
                    hello.session,
                    sends=DATA_TO_MODEL,
                    hears=MODEL_TO_DATA,
                    incoming=_pieces(replies, on_bytes),
                )
                result = yield_into(carried, outgoing, on_bytes)
            finally:
                outgoing.put(None)
            for _ in replies:
                raise PeerError("the model owner sent more than the program has; nothing counts")
        return result


def yield_into(
    carried: Generator[pb.Piece, None, Result],
    outgoing: queue.SimpleQueue[pb.AskRequest | None],
    on_bytes: Callable[[int, int], None],
) -> Result:
    """Hand what a machine sends to the stream's own thread."""
    while True:
        try:
            piece = next(carried)
        except StopIteration as end:
            result: Result = end.value
            return result
        on_bytes(len(piece.data), 0)
        outgoing.put(pb.AskRequest(piece=piece))


class DealerLink(_Link):
    """A connection to the dealer, of either party."""

    def __init__(self, address: str, tls: ClientTls) -> None:
        super().__init__(address, tls)
        self._stub = inference_pb2_grpc.DealerStub(self._channel)  # type: ignore[no-untyped-call]

    @contextmanager
    def deal(self, order: Order) -> Iterator[tuple[Batch, Iterator[Iterator[bytes]]]]:
        """The model owner's seeds, and for each session in their order its messages.

        Take every message of a session before the next one. Raises PeerError for what does not
        follow.
        """
        request = pb.DealRequest(
            program=order.program,
            mask_seed=order.mask_seed,
            data_owner=order.data_owner.uri,
            fingerprint=order.fingerprint,
            films=order.films,
            numbers=order.numbers,
            noise=order.terms.noise,
            profile=order.terms.profile,
        )
        with self._stream(self._stub.Deal(request)) as replies:
            first = next(replies, None)
            if first is None or first.WhichOneof("body") != "batch":
                raise PeerError("a batch that does not begin with its sessions; try again")
            batch = batch_from_pb(first.batch)
            if tuple(s.number for s in batch.sessions) != order.numbers:
                raise PeerError("the dealer dealt other sessions than were ordered")
            yield batch, (_messages(replies, s.session) for s in batch.sessions)
            for _ in replies:
                raise PeerError("the dealer sent more than was ordered")

    def collect(self, batch: bytes) -> Collected:
        """The data owner's part of a batch, which the dealer then forgets."""
        with self._stream(self._stub.Collect(pb.CollectRequest(batch=batch))) as replies:
            found = next(replies, None)
            if found is None:
                raise PeerError("the dealer sent no seeds; stock again")
            collected = Collected(
                program=convert.digest(found.program_hash, "program"),
                model=identity_from_uri(found.model, Role.MODEL),
                films=found.films,
                batch=batch_from_pb(found.batch),
            )
            for _ in replies:
                raise PeerError("the dealer sent more than one batch")
        if collected.batch.batch != batch:
            raise PeerError("the dealer sent another batch than was asked for")
        return collected


class _Counted:
    """The messages of a call, and how many came."""

    def __init__(self, call: Iterator[Any], watch: IdleWatch) -> None:
        self.came = 0
        self._call = call
        self._watch = watch

    def __iter__(self) -> Iterator[Any]:
        for message in self._call:
            self.came += 1
            self._watch.touch()
            yield message
            self._watch.touch()  # what we do with it ourselves is not their silence


def _pieces(replies: Iterator[Any], on_bytes: Callable[[int, int], None]) -> Iterator[pb.Piece]:
    for reply in replies:
        if reply.WhichOneof("body") != "piece":
            raise PeerError("something else than a frame in the middle of a prediction")
        on_bytes(0, len(reply.piece.data))
        yield reply.piece


def _messages(replies: Iterator[Any], session: bytes) -> Iterator[bytes]:
    """The messages of one session, up to the dealer's word that these were all."""
    step = 0
    while True:
        reply = next(replies, None)
        if reply is None:
            raise PeerError("the dealer's stream ended before its batch; nothing of it is used")
        body = reply.WhichOneof("body")
        if body == "end":
            if (reply.end.session, reply.end.steps) != (session, step):
                raise PeerError("the dealer ended a session that is not at its end")
            return
        if body != "piece":
            raise PeerError("the dealer sent something else than its batch")
        rest = (r.piece for r in replies)
        first: pb.Piece = reply.piece
        yield join(_chained(first, rest), session, step, DEALER_TO_MODEL)
        step += 1


def _chained(first: pb.Piece, rest: Iterator[pb.Piece]) -> Iterator[pb.Piece]:
    yield first
    yield from rest


def _hello(hello: Hello) -> pb.AskHello:
    return pb.AskHello(
        program_hash=bytes.fromhex(hello.program),
        session=hello.session,
        number=hello.number,
        films=hello.films,
        discarded=hello.discarded,
    )
