"""Frames of a prediction: what does not follow exactly ends it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.errors import PeerError
from primia.wire.channel import CHUNK, MAX_MESSAGE
from primia.wire.pieces import DATA_TO_MODEL, MODEL_TO_DATA, carry, cut, join
from primia.wire.v1 import inference_pb2 as pb

SESSION = b"s" * 16
SIZES = (0, 1, 700, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5)


@dataclass
class Step:
    send: bytes | None
    expect: int


@pytest.mark.parametrize("size", SIZES)
def test_a_message_comes_back_whole_in_frames_below_the_limit(size: int) -> None:
    message = bytes(i % 251 for i in range(size))
    pieces = list(cut(SESSION, 3, DATA_TO_MODEL, message))
    assert all(p.ByteSize() < MAX_MESSAGE // 2 for p in pieces)
    assert join(iter(pieces), SESSION, 3, DATA_TO_MODEL, size) == message


def frames() -> list[pb.Piece]:
    """Three messages, the second of which has three frames."""
    sizes = (10, 2 * CHUNK + 9, 20)
    return [
        piece
        for step, size in enumerate(sizes)
        for piece in cut(SESSION, step, DATA_TO_MODEL, bytes([step]) * size)
    ]


def machine() -> Generator[Step, bytes, list[bytes]]:
    heard = []
    for size in (10, 2 * CHUNK + 9, 20):
        heard.append((yield Step(None, size)))
    return heard


def hear(pieces: list[pb.Piece]) -> list[bytes]:
    carried = carry(
        machine(), SESSION, sends=MODEL_TO_DATA, hears=DATA_TO_MODEL, incoming=iter(pieces)
    )
    with pytest.raises(StopIteration) as end:
        next(carried)
    result: list[bytes] = end.value.value
    return result


def test_the_frames_as_they_are_are_taken() -> None:
    assert [len(m) for m in hear(frames())] == [10, 2 * CHUNK + 9, 20]


@given(st.data())
def test_frames_repeated_reordered_or_missing_are_never_worked_on(data: st.DataObject) -> None:
    pieces = frames()
    order = data.draw(st.lists(st.sampled_from(range(len(pieces))), max_size=8))
    if order == list(range(len(pieces))):
        return
    # Whatever follows the last frame that is due is not read.
    if order[: len(pieces)] == list(range(len(pieces))):
        return
    with pytest.raises(PeerError):
        hear([pieces[i] for i in order])


@given(st.integers(0, 4), st.data())
def test_a_frame_with_any_flipped_bit_is_never_worked_on(number: int, data: st.DataObject) -> None:
    pieces = frames()
    raw = bytearray(pieces[number].SerializeToString())
    # All bits of the header, and some of the long rest.
    at = data.draw(st.one_of(st.integers(0, min(60, len(raw) - 1)), st.integers(0, len(raw) - 1)))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        pieces[number] = pb.Piece.FromString(bytes(raw))
    except Exception:  # no message any more: gRPC ends the stream
        return
    if pieces[number] == frames()[number]:  # a bit that means nothing
        return
    with pytest.raises(PeerError):
        hear(pieces)


@given(st.integers(0, 4), st.data())
def test_a_truncated_frame_is_never_worked_on(number: int, data: st.DataObject) -> None:
    pieces = frames()
    raw = pieces[number].SerializeToString()
    try:
        pieces[number] = pb.Piece.FromString(raw[: data.draw(st.integers(0, len(raw) - 1))])
    except Exception:
        return
    with pytest.raises(PeerError):
        hear(pieces)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("session", b"t" * 16, "another session or direction"),
        ("direction", MODEL_TO_DATA, "another session or direction"),
        ("step", 1, "a frame of step 1 came"),
        ("length", 11, "a message of 11 bytes, 10 are due"),
        ("offset", 1, "does not follow the last"),
        ("data", b"0123456789", "a flipped bit"),
    ],
)
def test_the_line_says_what_does_not_fit(field: str, value: object, said: str) -> None:
    pieces = frames()
    setattr(pieces[0], field, value)
    with pytest.raises(PeerError, match=said):
        hear(pieces)


def test_a_message_that_claims_to_be_huge_is_refused_before_it_is_gathered() -> None:
    piece = pb.Piece(session=SESSION, step=0, direction=DATA_TO_MODEL, length=1 << 40, data=b"x")
    with pytest.raises(PeerError, match="are due"):
        join(iter([piece]), SESSION, 0, DATA_TO_MODEL)
