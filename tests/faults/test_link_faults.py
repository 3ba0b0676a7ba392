"""Links that are cut, swallowed, slow, or lead through a proxy (rows N01 to N08)."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from primia.demo.fleet import call
from primia.errors import StateError
from primia.protocol.messages import RoundId, RoundKind
from primia.types import Digest, SiteId, sha256
from primia.wire.handler import UploadKey
from tests.faults.proxy import ConnectProxy
from tests.faults.relay import Relay
from tests.faults.ward import Ward
from tests.processes.federation import committed
from tests.wire.conftest import World

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]


def first_commit(ward: Ward, number: int) -> dict:
    return next(a for a in ward.attempts() if a["number"] == number and a["outcome"] == "committed")


def test_n01_a_resend_over_a_cut_link_is_byte_identical_and_charged_once(
    ward: Ward, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link breaks in the upload; then coordinator and worker die, each in a round of its own.

    Within an attempt the masked bytes are the same, over attempts the stored update is.
    """
    record = ward.folder / "uploads.jsonl"
    monkeypatch.setenv("PRIMIA_TEST_UPLOADS", str(record))
    ward.through("west", relay)
    ward.start_coordinator()
    ward.start_all("west")
    ward.start_worker("west", "tests.faults.records_uploads")
    ward.wait_for(ward.coordinator, "phase", round=1, phase="keys")
    relay.rate = 30_000
    ward.wait_for(ward.coordinator, "phase", round=1, phase="masked update")
    relay.cut_after.append(40_000)  # of 54 kB
    ward.wait_for(ward.coordinator, "round_committed", round=1)
    relay.rate = None
    assert relay.cuts == 1
    # Round 2: the coordinator dies with the vectors on their way, then the worker.
    ward.wait_for(ward.coordinator, "phase", round=2, phase="shares")
    ward.kill("coordinator")
    ward.kill("west")
    ward.start_worker("west", "tests.faults.records_uploads")
    ward.start_coordinator()
    ward.wait_for_end()

    streams = [json.loads(line) for line in record.read_text().splitlines()]
    first = [s for s in streams if s["round"] == 1]
    assert len(first) >= 2, "the cut did not hit the upload"
    assert max(s["offset"] for s in first) > 0, "nothing of the first stream was kept"
    by_session: dict[str, set[str]] = {}
    for stream in streams:
        assert stream["sha256"] == stream["announced"]
        by_session.setdefault(stream["session"], set()).add(stream["sha256"])
    assert all(len(digests) == 1 for digests in by_session.values())
    assert "west" in first_commit(ward, 1)["contributors"]
    assert committed(ward.result()) == [1, 2, 3]
    for name in ward.sites:
        assert [r for r, _ in ward.ledger(name)] == [1, 2]
    ward.check(sums=2)


def test_n02_a_link_that_swallows_everything_is_noticed_and_made_anew(
    ward: Ward, relay: Relay
) -> None:
    ward.through("west", relay)
    ward.start_coordinator("--stay")
    ward.start_all()
    ward.wait_for(ward.daemons["west"], "working", round=1)
    relay.swallow()
    # 20 s until the keepalive asks, 10 s for the answer, as much again for a loaded machine.
    # Fetching the model or answering, whichever it was at, is tried again over a new connection.
    until = time.monotonic() + 60
    while not re.search("stream_broken|coordinator_unreachable", ward.said("west")):
        assert time.monotonic() < until, ward.daemons["west"].last_lines(5)
        time.sleep(0.2)
    # The others may have finished without it; it hears so over the new connection.
    assert ward.wait_for_exit("west", 150) == 0
    ward.wait_until(lambda: '"study_over"' in ward.said("coordinator"))
    ward.terminate("coordinator")
    assert committed(ward.result()) == [1, 2, 3]
    ward.check(sums=2)


def test_n03_bytes_that_flow_keep_a_slow_site_in_its_stage(ward: Ward, relay: Relay) -> None:
    """The upload takes longer than `stage_timeout_s`."""
    ward.through("west", relay)
    ward.start_coordinator()
    ward.start_all()
    ward.wait_for(ward.coordinator, "phase", round=1, phase="shares")
    ward.wait_for(ward.coordinator, "phase", round=1, phase="masked update")
    relay.rate = 5_500  # 54 kB take ten seconds; the largest piece of them, six
    began = time.monotonic()
    ward.wait_for(ward.coordinator, "round_committed", round=1)
    took = time.monotonic() - began
    relay.rate = None
    assert "west" in first_commit(ward, 1)["contributors"]
    assert took > 8, "the upload was too fast to show anything"
    ward.wait_for_end()
    ward.check(sums=2)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_n03_50_mb_over_a_link_of_1_mb_a_second_arrive_while_others_are_served(
    world: World,
) -> None:
    data = os.urandom(50 << 20)
    key = UploadKey(RoundId(Digest("1" * 64), 1, 1, RoundKind.TRAIN, Digest("2" * 64)), b"s" * 32)
    with Relay(world.server.port, rate=1e6) as relay:
        slow = world.client(address=relay.address)
        other = world.client(world.site_tls(SiteId("berlin")))
        sending = threading.Thread(target=slow.upload, args=(key, data))
        began = time.monotonic()
        sending.start()
        calls = 0
        while sending.is_alive():
            assert other.get_study().plan == b"plan"
            calls += 1
            sending.join(0.5)
        took = time.monotonic() - began
    assert world.handler.finished == {key.session: [sha256(data)]}
    assert relay.connections == 1  # in one stream
    assert took > 45
    assert calls > 20


def test_n04_a_site_cut_off_after_the_masks_were_agreed_is_not_in_the_sum(
    ward: Ward, relay: Relay
) -> None:
    """The contract's second line compares the sum with the other three's updates, exactly."""
    ward.through("west", relay)
    ward.start_coordinator()
    ward.start_all()
    ward.wait_for(ward.coordinator, "phase", round=1, phase="shares")
    relay.rate = 1000  # so that its vectors cannot be faster than this test
    ward.wait_for(ward.coordinator, "phase", round=1, phase="masked update")
    relay.refuse = True
    relay.cut()
    ward.wait_for(ward.coordinator, "round_committed", round=1)
    relay.refuse, relay.rate = False, None
    assert first_commit(ward, 1)["contributors"] == ["east", "north", "south"]
    ward.wait_for_end()
    assert committed(ward.result()) == [1, 2, 3]
    ward.check(sums=1)


def test_n05_with_two_sites_cut_the_attempt_aborts_and_the_next_one_commits(
    ward: Ward, relay: Relay
) -> None:
    for site in ("south", "west"):
        ward.through(site, relay)
    ward.start_coordinator()
    ward.start_all()
    ward.wait_for(ward.coordinator, "phase", round=1, phase="keys")
    relay.refuse = True
    relay.cut()
    ward.wait_for(ward.coordinator, "round_aborted", round=1)
    relay.refuse = False
    ward.wait_for_end()
    attempts = ward.attempts()
    aborted = [a for a in attempts if a["outcome"] == "aborted"]
    assert "south" in aborted[0]["reason"]
    assert "west" in aborted[0]["reason"]
    assert committed(ward.result()) == [1, 2, 3]
    for name in ward.sites:
        assert [r for r, _ in ward.ledger(name)] == [1, 2]
    ward.check(sums=2)


def test_n08_a_dead_proxy_is_named(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://user:secret@127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    ward.start_coordinator()
    worker = ward.start_worker("north")
    event = ward.wait_for(worker, "coordinator_unreachable")
    assert "the proxy 127.0.0.1:1 named in https_proxy does not answer" in event["why"]
    assert "secret" not in ward.said("north")
    worker.process.terminate()
    assert worker.process.wait(15) == 0


@pytest.mark.parametrize("password", [None, "ward:s3cret/@"])
def test_a_worker_enrols_and_runs_through_a_connect_proxy(
    ward: Ward, password: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward.start_coordinator()
    home, address = ("--state", str(ward.home)), f"127.0.0.1:{ward.port}"
    call("coordinator", "roster", "--strike", "north", *home)
    invitation = json.loads(
        call(
            "coordinator", "invite", "north", "--json", "--address", f"127.0.0.1:{ward.port}", *home
        )
    )
    (ward.folder / "north").rename(ward.folder / "north-before")
    for name in ("no_proxy", "grpc_proxy", "http_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    state = ("--state", str(ward.folder / "north"))
    with ConnectProxy(password) as proxy:
        if password is not None:
            monkeypatch.setenv("https_proxy", f"http://ward:wrong@127.0.0.1:{proxy.port}")
            with pytest.raises(StateError, match=r"refuses the way .*407"):
                call("worker", "enrol", invitation["code"], *state)
        login = "" if password is None else "ward:s3cret%2F%40@"
        monkeypatch.setenv("https_proxy", f"http://{login}127.0.0.1:{proxy.port}")
        call("worker", "enrol", invitation["code"], *state)
        if hasattr(ward, "approve"):
            ward.approve("north")
        worker = ward.start_worker("north")
        ward.wait_for(worker, "taking_part")
        ward.wait_for(ward.coordinator, "site_attends", site="north")
        ward.terminate("north")
    assert set(proxy.asked) == {address}
