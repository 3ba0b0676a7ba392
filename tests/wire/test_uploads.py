"""Spooling without a network: who writes, how much, and when it counts."""

from __future__ import annotations

import hashlib
import tracemalloc

import pytest

from primia.errors import PeerError, Unreachable
from primia.identity.certificate import Identity, Role
from primia.types import sha256
from primia.wire.uploads import UploadHeader, Uploads

SITE = Identity(Role.SITE, "munich")


@pytest.fixture
def uploads(world):
    return Uploads(world.handler)


def header(key, data, offset=0):
    return UploadHeader(key=key, length=len(data), sha256=sha256(data), offset=offset)


def test_a_newer_stream_takes_over_from_one_that_hangs(world, uploads, upload_key):
    """A dead link may keep the old stream open for half a minute; its late bytes must not land."""
    data = b"abcdefgh"

    def hangs():
        yield b"abcd"
        uploads.receive(SITE, header(upload_key, data, 4), [b"efgh"])  # meanwhile, the resumed one
        yield b"XXXX"

    with pytest.raises(Unreachable, match="took over"):
        uploads.receive(SITE, header(upload_key, data), hangs())
    assert world.handler.finished == {upload_key.session: [sha256(data)]}


def test_bytes_that_do_not_match_are_thrown_away(world, uploads, upload_key):
    data = b"abcdefgh"
    with pytest.raises(Unreachable, match="do not match"):
        uploads.receive(SITE, header(upload_key, data), [b"abcdefgX"])
    assert uploads.status(SITE, upload_key) == (0, False)
    uploads.receive(SITE, header(upload_key, data), [data])
    assert uploads.status(SITE, upload_key) == (0, True)


def test_an_early_end_keeps_what_came_for_the_next_stream(world, uploads, upload_key):
    data = b"abcdefgh"
    with pytest.raises(Unreachable, match="stopped at 3 of 8"):
        uploads.receive(SITE, header(upload_key, data), [b"abc"])
    assert uploads.status(SITE, upload_key) == (3, False)
    with pytest.raises(Unreachable, match="3 bytes are here, not 5"):
        uploads.receive(SITE, header(upload_key, data, 5), [b"fgh"])
    uploads.receive(SITE, header(upload_key, data, 3), [b"defgh"])
    assert world.handler.finished == {upload_key.session: [sha256(data)]}


def test_more_than_announced_is_refused(uploads, upload_key):
    with pytest.raises(PeerError, match="more than the 4 bytes announced"):
        uploads.receive(SITE, header(upload_key, b"abcd"), [b"abcd", b"e"])


def test_the_limit_is_the_plans_not_the_messages(world, uploads, upload_key):
    world.handler.limit = 3
    with pytest.raises(PeerError, match="allows 1 to 3"):
        uploads.receive(SITE, header(upload_key, b"abcd"), [b"abcd"])
    with pytest.raises(PeerError, match="allows 1 to 3"):
        uploads.receive(SITE, header(upload_key, b""), [])


def test_two_sites_with_one_session_do_not_share_a_file(world, uploads, upload_key):
    with pytest.raises(Unreachable):
        uploads.receive(SITE, header(upload_key, b"abcd"), [b"ab"])
    berlin = Identity(Role.SITE, "berlin")
    assert uploads.status(berlin, upload_key) == (0, False)


def test_a_shorter_upload_over_a_longer_leftover_is_whole(world, uploads, upload_key):
    with pytest.raises(Unreachable):
        uploads.receive(SITE, header(upload_key, b"abcdefgh"), [b"abcdef"])
    uploads.receive(SITE, header(upload_key, b"wxyz"), [b"wxyz"])
    assert world.handler.finished == {upload_key.session: [sha256(b"wxyz")]}


def test_a_second_stream_of_a_finished_upload_is_answered_and_not_counted(
    world, uploads, upload_key
):
    for _ in range(2):
        uploads.receive(SITE, header(upload_key, b"abcd"), [b"abcd"])
    assert world.handler.finished == {upload_key.session: [sha256(b"abcd")]}


def test_an_upload_is_never_in_memory_as_a_whole(world, uploads, upload_key):
    """However long it is: pieces come in, are written and let go."""
    piece = bytes(1 << 20)
    total = 48
    digest = hashlib.sha256(b"".join([piece] * total)).hexdigest()
    announced = UploadHeader(key=upload_key, length=total << 20, sha256=digest, offset=0)
    world.handler.upload_complete = lambda *_: None
    resumed = UploadHeader(key=upload_key, length=total << 20, sha256=digest, offset=24 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(Unreachable):
            uploads.receive(SITE, announced, (bytes(1 << 20) for _ in range(24)))
        uploads.receive(SITE, resumed, (bytes(1 << 20) for _ in range(24)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 << 20
