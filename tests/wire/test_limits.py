"""One caller cannot take the coordinator from the others; a stream lives while bytes flow."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.errors import TooManyCalls, Unreachable
from primia.identity.keyfile import new_key
from primia.types import SiteId
from primia.wire import calls, limits
from primia.wire.channel import CHUNK
from primia.wire.client import enrol
from primia.wire.limits import Gate, IdleWatch, Limits, Rate, Seldom

THREE = Limits(at_once=3, rate=10.0, burst=5)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_caller_may_have_so_many_calls_at_once_and_others_are_not_concerned():
    gate = Gate(Clock())
    with gate.passing("a", THREE), gate.passing("a", THREE), gate.passing("a", THREE):
        with pytest.raises(TooManyCalls, match="a has 3 calls running"), gate.passing("a", THREE):
            pass
        with gate.passing("b", THREE):
            pass
    with gate.passing("a", THREE):
        pass


@given(st.lists(st.floats(0.0, 0.5), min_size=30, max_size=120))
def test_never_more_calls_than_burst_and_rate_allow(gaps):
    clock = Clock()
    gate = Gate(clock)
    taken = 0
    for gap in gaps:
        clock.now += gap
        try:
            with gate.passing("a", THREE):
                taken += 1
        except TooManyCalls:
            continue
    assert taken <= THREE.burst + THREE.rate * clock.now + 1e-6


def test_a_site_that_floods_is_refused_and_the_others_are_served(world, monkeypatch):
    monkeypatch.setattr(calls, "SITE_LIMITS", Limits(at_once=8, rate=0.001, burst=5))
    hostile, honest = world.client(), world.client(world.site_tls(SiteId("berlin")))
    for _ in range(5):
        hostile.get_study()
    with pytest.raises(TooManyCalls, match="try again later"):
        hostile.get_study()
    assert honest.get_study().plan == b"plan"


def test_a_site_that_opens_many_streams_leaves_the_others_their_calls(world, monkeypatch):
    """More connections and waiting calls than the server has threads."""
    tls = world.site_tls()
    for _ in range(6):
        client = world.client(tls)
        for _ in range(16):
            threading.Thread(target=_quietly, args=(client.attend, 0), daemon=True).start()
    time.sleep(1)
    assert world.client(world.site_tls(SiteId("berlin"))).get_study().plan == b"plan"


def _quietly(call, *arguments):
    with contextlib.suppress(Unreachable):
        call(*arguments)


def test_who_holds_an_invitation_cannot_ask_for_ever(world, monkeypatch):
    monkeypatch.setattr(calls, "ENROL_LIMITS", Limits(at_once=4, rate=0.001, burst=3))
    invitation, key = world.invite(), new_key()
    for _ in range(3):
        enrol(invitation, key)
    with pytest.raises(TooManyCalls, match="enrol munich makes more than"):
        enrol(invitation, key)


def test_more_connections_than_sites_can_have_are_turned_away(world):
    """Idle connections without a handshake cost the coordinator a socket each."""
    client = world.client()
    client.get_study()
    idle = [socket.create_connection(("127.0.0.1", world.server.port)) for _ in range(60)]
    try:
        time.sleep(1)
        assert client.get_study().plan == b"plan"
        assert sum(_is_open(link) for link in idle) < 4 * 4 + 16
    finally:
        for link in idle:
            link.close()


def _is_open(link: socket.socket) -> bool:
    link.setblocking(False)
    try:
        return link.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_a_connection_that_is_too_old_is_made_anew_without_an_error(world):
    server = world.serve(connection_age_s=0.5)
    world.server = server
    relay = world.relay()
    client = world.client(address=relay.address)
    until = time.monotonic() + 3
    while time.monotonic() < until:
        assert client.get_study().plan == b"plan"
        time.sleep(0.05)
    assert relay.connections > 1


def test_a_stream_that_stands_still_is_given_up_and_one_that_crawls_is_not():
    given_up = threading.Event()
    with IdleWatch(given_up.set, 0.5) as watch:
        for _ in range(10):
            time.sleep(0.1)
            watch.touch()
        assert not watch.gave_up
        assert given_up.wait(10)
    assert watch.gave_up


def test_an_upload_without_bytes_is_given_up_by_the_coordinator(world, monkeypatch):
    monkeypatch.setattr(calls, "IDLE_S", 0.2)
    ended = threading.Event()

    def silent():
        ended.wait(20)
        yield b""

    client = world.client()
    with pytest.raises(grpc.RpcError) as caught:
        client._upload(silent(), timeout=20)
    assert caught.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
    ended.set()


def test_an_upload_that_stands_still_says_so(world, upload_key, monkeypatch):
    monkeypatch.setattr("primia.wire.client.IDLE_S", 0.3)
    monkeypatch.setattr("primia.wire.client.ATTEMPTS", 1)
    monkeypatch.setattr(limits.IdleWatch.__init__, "__defaults__", (0.3,))
    monkeypatch.setattr(world.handler, "upload_complete", lambda *_: time.sleep(3), raising=True)
    client = world.client()
    client._up.note(1 << 30, 1.0)
    with pytest.raises(Unreachable, match="nothing has moved on the link to 127"):
        client.upload(upload_key, b"x" * 10)


@given(st.floats(1.0, 1e10), st.integers(0, 1 << 30))
def test_a_deadline_grows_with_the_bytes_and_shrinks_with_the_rate(rate, size):
    link, faster = Rate(), Rate()
    link.note(1 << 20, (1 << 20) / rate)
    faster.note(1 << 20, (1 << 20) / (2 * rate))
    assert link.seconds_for(size) <= link.seconds_for(size + 1)
    assert faster.seconds_for(size) <= link.seconds_for(size)
    assert Rate().seconds_for(size) >= size / (1 << 20)
    assert Rate.SMALLEST_PIECE <= link.piece(0, CHUNK) <= CHUNK


def test_pieces_grow_on_an_unknown_link_and_fit_a_second_of_a_slow_one():
    sizes, size = [], 0
    for _ in range(8):
        size = Rate().piece(size, CHUNK)
        sizes.append(size >> 10)
    assert sizes == [16, 32, 64, 128, 256, 512, 1024, 1024]
    slow = Rate()
    slow.note(1 << 20, 8.0)
    assert slow.piece(CHUNK, CHUNK) == (1 << 20) // 8


def test_a_log_is_not_filled_by_who_knocks():
    clock = Clock()
    seldom = Seldom(most=2, clock=clock)
    assert [seldom.left_out() for _ in range(5)] == [0, 0, None, None, None]
    clock.now = 61
    assert seldom.left_out() == 3
