"""A step's message as pieces of at most 1 MiB, and the loop that carries a machine over a stream.

Each piece says its session, the number of its message in its direction, the direction, and where
in the message it stands. What does not follow exactly aborts: a repeated, missing, reordered or
changed piece is never worked on.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Protocol, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from primia.errors import PeerError
from primia.wire.channel import CHUNK
from primia.wire.v1 import inference_pb2 as pb

DATA_TO_MODEL: pb.Direction = pb.DATA_TO_MODEL
MODEL_TO_DATA: pb.Direction = pb.MODEL_TO_DATA
DEALER_TO_MODEL: pb.Direction = pb.DEALER_TO_MODEL
LONGEST = 1 << 31  # bytes of one message; a batch of films may send more than a frame holds

_NAMES = {
    DATA_TO_MODEL: "data owner to model owner",
    MODEL_TO_DATA: "model owner to data owner",
    DEALER_TO_MODEL: "dealer to model owner",
}

_CHECKER = AESGCM(bytes(32))

Message = bytes | bytearray | memoryview
Result = TypeVar("Result")


class Wanted(Protocol):
    """What a machine wants of a step: `primia.inference` yields these."""

    @property
    def send(self) -> Message | None:
        """Bytes for the other party, if any."""

    @property
    def expect(self) -> int:
        """How many bytes the other party sends in this step; 0 for none."""


def cut(session: bytes, step: int, direction: pb.Direction, message: Message) -> Iterator[pb.Piece]:
    """The pieces of one message, in order; at least one."""
    view = memoryview(message).cast("B")
    for offset in range(0, max(1, len(view)), CHUNK):
        data = bytes(view[offset : offset + CHUNK])
        yield pb.Piece(
            session=session, step=step, direction=direction, length=len(view), offset=offset,
            data=data, check=_check(step, offset, data),
        )  # fmt: skip


def join(
    pieces: Iterator[pb.Piece],
    session: bytes,
    step: int,
    direction: pb.Direction,
    length: int | None = None,
) -> bytes:
    """Take the next message from `pieces`; it must be exactly the one that is due.

    length: the message's, where it is known beforehand.
    Raises PeerError, which ends the session.
    """
    parts: list[bytes] = []
    received, total = 0, length
    while total is None or received < total or not parts:
        piece = next(pieces, None)
        if piece is None:
            raise PeerError(f"{_where(direction, step)}: the stream ended; nothing was answered")
        total = piece.length if total is None else total
        data = piece.data  # protobuf copies at every look
        if (piece.session, piece.direction) != (session, direction):
            raise PeerError(f"{_where(direction, step)}: a frame of another session or direction")
        if piece.step != step:
            raise PeerError(f"{_where(direction, step)}: a frame of step {piece.step} came")
        if piece.length != total or total > LONGEST:
            raise PeerError(
                f"{_where(direction, step)}: a message of {piece.length} bytes, {total} are due; "
                "both sides need the same version of primia"
            )
        if piece.offset != received or len(data) != min(CHUNK, total - received):
            raise PeerError(f"{_where(direction, step)}: a frame that does not follow the last")
        if _check(step, received, data) != piece.check:
            raise PeerError(
                f"{_where(direction, step)}: a frame with a flipped bit; nothing was answered, "
                "ask again and have the machines' memory tested"
            )
        parts.append(data)
        received += len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def carry(
    machine: Generator[Wanted, bytes, Result],
    session: bytes,
    *,
    sends: pb.Direction,
    hears: pb.Direction,
    incoming: Iterator[pb.Piece],
) -> Generator[pb.Piece, None, Result]:
    """Run `machine` to its end: yields the pieces it sends, feeds it what `incoming` brings.

    sends, hears: the directions. Returns what the machine returns; raises PeerError and whatever
    the machine or `incoming` raises.
    """
    sent = heard = 0
    try:
        wanted = next(machine)
        while True:
            if wanted.send is not None and len(wanted.send):
                yield from cut(session, sent, sends, wanted.send)
                sent += 1
            received = b""
            if wanted.expect:
                received = join(incoming, session, heard, hears, wanted.expect)
                heard += 1
            wanted = machine.send(received)
    except StopIteration as end:
        result: Result = end.value
        return result
    finally:
        machine.close()


def _check(step: int, offset: int, data: bytes) -> bytes:
    """A checksum, by AES-GMAC under a public key: on these CPUs it costs a tenth of a CRC-32.

    It finds what a bad memory does. Against people the frames travel in TLS.
    """
    nonce = step.to_bytes(4, "big") + offset.to_bytes(8, "big")
    return _CHECKER.encrypt(nonce, b"", data)[:8]


def _where(direction: pb.Direction, step: int) -> str:
    return f"{_NAMES[direction]}, step {step}"
