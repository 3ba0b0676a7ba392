"""Calls and streams between a site and its coordinator, over real mutual TLS on loopback."""

from __future__ import annotations

import dataclasses
import os
import threading
import time

import pytest

from primia.errors import (
    BudgetExhausted,
    IdentityError,
    PeerError,
    PolicyRefused,
    RoundFailed,
    StateError,
    Unreachable,
)
from primia.identity.certificate import Identity, Role
from primia.protocol import messages as m
from primia.types import sha256
from primia.wire.channel import CHUNK
from primia.wire.client import _frames
from primia.wire.convert import round_to_pb
from primia.wire.handler import Attendance, StudyBundle
from primia.wire.limits import Rate
from primia.wire.v1 import federation_pb2 as pb


def test_a_site_gets_the_study(world):
    assert world.client().get_study() == StudyBundle(
        b"plan", b"signature", b"coordinator", (b"a", b"b")
    )


def test_the_study_comes_with_the_time_of_day_at_the_coordinator(world):
    before = time.time()
    clock = world.client().get_study().clock
    assert before <= clock <= time.time()


def test_attend_waits_for_news_and_brings_them_at_once(world, upload_key):
    client = world.client()
    news = Attendance(7, instruction=m.Train(upload_key.round))
    threading.Timer(0.3, world.handler.announce, [news]).start()
    began = time.monotonic()
    assert client.attend(after=6) == news
    assert 0.25 < time.monotonic() - began < 5
    world.handler.announce(Attendance(8, study_over="all rounds are done"))
    assert client.attend(after=7) == Attendance(8, study_over="all rounds are done")


def test_attend_with_nothing_new_says_so(world, monkeypatch):
    monkeypatch.setattr("primia.wire.servicer.POLL_S", 0.1)
    assert world.client().attend(after=3) == Attendance(3)


def test_closing_ends_a_waiting_call_at_once(world):
    client = world.client()
    client.get_study()
    threading.Timer(0.3, client.close).start()
    began = time.monotonic()
    with pytest.raises(Unreachable, match="hung up"):
        client.attend(after=0)
    assert time.monotonic() - began < 5


def test_the_sender_of_an_answer_is_who_the_certificate_says(world, upload_key):
    advert = m.KeyAdvert(upload_key.round, "berlin", b"m" * 32, b"s" * 32, b"c" * 32, b"signature")
    world.client().answer(advert)
    assert world.handler.answers == [("munich", advert)]


@pytest.mark.parametrize(
    "error",
    [
        IdentityError("no"),
        PolicyRefused("no"),
        BudgetExhausted("no"),
        PeerError("no"),
        RoundFailed("Runde vorbei, ünd"),
        Unreachable("later"),
    ],
)
def test_an_error_for_the_caller_comes_back_as_itself(world, error):
    world.handler.fail = error
    with pytest.raises(type(error)) as caught:
        world.client().get_study()
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)


@pytest.mark.parametrize("fault", [KeyError("patient 4711"), StateError("/srv/secret: disk full")])
def test_a_fault_of_the_coordinator_shows_an_incident_number_only(world, fault, capsys):
    world.handler.fail = fault
    with pytest.raises(Unreachable, match="fault of its own") as caught:
        world.client().get_study()
    assert "4711" not in str(caught.value)
    assert "secret" not in str(caught.value)
    incident = str(caught.value).split("incident ")[1][:8]
    assert incident in capsys.readouterr().out  # structlog's default sink


def test_a_model_of_45_mb_survives_two_broken_links(world):
    data = os.urandom(45 << 20)
    digest = world.add_model(data)
    relay = world.relay(10 << 20, 20 << 20)
    client = world.client(address=relay.address)
    heard = []
    assert client.fetch_model(digest, max_bytes=len(data), on_progress=heard.append) == data
    assert relay.connections == 3
    assert heard == sorted(heard)  # nothing was fetched twice
    assert heard[-1] == len(data)


def test_a_model_with_other_bytes_or_too_many_is_refused(world):
    digest = world.add_model(b"model" * 1000)
    world.handler.models[digest].write_bytes(b"modem" * 1000)
    client = world.client()
    with pytest.raises(PeerError, match="its digest is"):
        client.fetch_model(digest, max_bytes=5000)
    with pytest.raises(PeerError, match="more than the 4999 bytes"):
        client.fetch_model(digest, max_bytes=4999)
    with pytest.raises(PeerError, match="no such model"):
        client.fetch_model(sha256(b"other"), max_bytes=10)


def test_an_upload_of_45_mb_survives_broken_links_and_counts_once(world, upload_key):
    data = os.urandom(45 << 20)
    relay = world.relay(1 << 20, 20 << 20, 5 << 20)
    client = world.client(address=relay.address)
    client.upload(upload_key, data)
    assert relay.connections == 4
    assert world.handler.finished == {upload_key.session: [sha256(data)]}
    client.upload(upload_key, data)  # the reply was lost: the same again
    assert world.handler.finished == {upload_key.session: [sha256(data)]}


def test_frames_joined_by_hand_are_those_of_the_schema(upload_key):
    key = pb.UploadKey(round=round_to_pb(upload_key.round), session=upload_key.session)
    data = os.urandom(2 * CHUNK + 5)
    header = pb.UploadHeader(key=key, length=len(data), sha256=b"d" * 32, offset=CHUNK // 2)
    heard = []
    fast = Rate()
    fast.note(1 << 30, 1.0)
    frames = list(_frames(header, memoryview(data), heard.append, fast))
    pieces = [data[i : i + CHUNK] for i in range(CHUNK // 2, len(data), CHUNK)]
    expected = [pb.UploadFrame(header=header), *(pb.UploadFrame(data=p) for p in pieces)]
    assert frames == [frame.SerializeToString() for frame in expected]
    assert heard == [CHUNK // 2 + CHUNK, len(data)]


def test_an_upload_whose_spool_is_damaged_starts_over(world, upload_key):
    """A power cut may leave a spool file with wrong bytes in it."""
    data = os.urandom(3 << 20)
    slot = world.handler.upload_slot(Identity(Role.SITE, "munich"), upload_key)
    slot.path.write_bytes(bytes(2 << 20))
    world.client().upload(upload_key, data)
    assert world.handler.finished == {upload_key.session: [sha256(data)]}


def test_a_link_that_always_breaks_ends_in_unreachable(world, upload_key):
    relay = world.relay(*([200_000] * 50))
    client = world.client(address=relay.address)
    digest = world.add_model(bytes(3 << 20))
    with pytest.raises(Unreachable):
        client.fetch_model(digest, max_bytes=3 << 20)
    with pytest.raises(Unreachable):
        client.upload(upload_key, bytes(3 << 20))
    assert world.handler.finished == {}


def test_an_upload_to_a_closed_round_is_refused_at_once(world, upload_key):
    late = dataclasses.replace(upload_key, round=dataclasses.replace(upload_key.round, number=2))
    with pytest.raises(RoundFailed, match="closed"):
        world.client().upload(late, b"x")
    assert world.handler.asked == 1  # a refusal is no broken link: it is not tried again


def test_an_upload_above_the_plans_length_is_refused(world, upload_key):
    world.handler.limit = 1000
    with pytest.raises(PeerError, match="plan allows 1 to 1000"):
        world.client().upload(upload_key, bytes(1001))


def test_a_coordinator_that_is_back_is_found_by_the_same_client(world):
    client = world.client()
    client.get_study()
    world.server.stop(0)
    with pytest.raises(Unreachable, match=r"nothing listens at .*is the coordinator running"):
        client.get_study()
    world.serve(listen=world.address)
    deadline = time.monotonic() + 8
    while True:
        try:
            assert client.get_study().plan == b"plan"
            break
        except Unreachable:
            assert time.monotonic() < deadline
            time.sleep(0.1)
