"""Each way in which the coordinator is not reached has its own words, and hangs nothing."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from coordinator import home as coordinator_home
from primia.identity import keyfile
from primia.identity.certificate import to_pem
from primia.identity.enrolment import make_request
from primia.types import SiteId
from primia.wire.server import ServerTls, serve
from tests.renewal.study import EAST, NORTH, Study
from tests.worker.doctor.conftest import Hospital
from worker import home
from worker.doctor.visit import State


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """An address whose SYNs are dropped, as by a firewall: its backlog is full."""
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_name_that_is_not_in_dns(hospital: Hospital) -> None:
    hospital.dials("no-such-host.invalid:8443")
    found = hospital.fault()
    assert found.name == "connection"
    assert "cannot be resolved" in found.text
    assert "check the address and DNS" in found.text


def test_what_depends_on_the_link_is_named_as_not_checked_and_the_rest_is_checked(
    hospital: Hospital,
) -> None:
    hospital.dials(f"127.0.0.1:{free_port()}")
    visit = hospital.examine()
    states = {f.name: f for f in visit.findings}
    assert "nothing listens at" in states["connection"].text
    assert "is the coordinator running" in states["connection"].text
    for name in ("coordinator", "clock", "plan", "caps", "cohort", "approval", "budget"):
        assert states[name].state is State.OPEN
        assert states[name].because == "connection"
    for name in ("ledger", "audit log", "device", "masked sum", "private step", "decoders"):
        assert states[name].state is State.WELL, states[name]
    assert "a stand-in" in states["private step"].text


def test_a_firewall_that_drops_packets(hospital: Hospital) -> None:
    with black_hole() as address:
        hospital.dials(address)
        began = time.monotonic()
        found = hospital.fault()
    assert "a firewall may drop the connection" in found.text
    assert found.seconds < 12
    assert time.monotonic() - began < 100


def test_a_server_that_takes_connections_and_says_nothing(hospital: Hospital) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        hospital.dials(f"127.0.0.1:{listener.getsockname()[1]}")
        assert "does not answer" in hospital.fault().text


def test_a_dead_proxy(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"http://user:secret@127.0.0.1:{free_port()}")
    found = hospital.fault()
    assert "named in https_proxy does not answer" in found.text
    assert "no_proxy" in found.text
    assert "secret" not in str(hospital.examine().findings)


def test_a_plaintext_server(hospital: Hospital) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        hospital.dials(f"127.0.0.1:{port}")
        assert "does not speak TLS" in hospital.fault().text
    finally:
        server.stop(0)


def test_a_coordinator_of_a_foreign_authority(hospital: Hospital, tmp_path: Path) -> None:
    other = Study(tmp_path / "other", age_days=0)
    try:
        hospital.dials(other.server.address)
        found = hospital.fault()
        assert found.name == "connection"
        assert "authority" in found.text
    finally:
        other.close()


@pytest.mark.parametrize(
    ("issued", "says"),
    [(-60, "has expired by this machine's clock"), (10, "not valid yet by this machine's clock")],
)
def test_a_coordinator_whose_certificate_is_out_of_date(
    hospital: Hospital, issued: int, says: str
) -> None:
    study = hospital.study
    row = coordinator_home.serving(study.home, study.state)
    authority = coordinator_home.signing_authority(study.home, row)
    key = keyfile.new_key()
    when = datetime.now(UTC) + timedelta(days=issued)
    made = authority.issue_coordinator(key.public_key(), "attacked", now=when, valid_days=9)
    tls = ServerTls(
        certificate=to_pem(made),
        key=keyfile.key_to_pem(key),
        authority=to_pem(authority.certificate),
    )
    with serve(study.service, listen="127.0.0.1:0", tls=lambda: tls, max_sites=4) as server:
        hospital.dials(server.address)
        found = hospital.fault()
    assert says in found.text
    assert "check the clock" in found.text


@pytest.mark.parametrize(("issued", "says"), [(-40, "expired on"), (5, "is not valid before")])
def test_a_certificate_of_this_site_that_is_out_of_date(
    hospital: Hospital, issued: int, says: str
) -> None:
    study = hospital.study
    row = coordinator_home.serving(study.home, study.state)
    authority = coordinator_home.signing_authority(study.home, row)
    key = keyfile.load_key(hospital.state / "identity" / "site.key")
    when = datetime.now(UTC) + timedelta(days=issued)
    made = authority.issue_site(make_request(key), EAST, now=when, valid_days=9)
    keyfile.store(hospital.state / "identity" / "site.pem", to_pem(made))
    found = hospital.fault()
    assert found.name == "identity"
    assert says in found.text


def test_a_clock_that_is_five_minutes_off(hospital: Hospital) -> None:
    hospital.study.clock.ahead = timedelta(minutes=5)
    try:
        found = hospital.fault()
    finally:
        hospital.study.clock.ahead = timedelta()
    assert found.name == "clock"
    assert "behind the coordinator's clock" in found.text
    assert "set it" in found.text


def test_a_site_that_was_struck(hospital: Hospital, tmp_path: Path) -> None:
    study, folder = hospital.study, tmp_path / "north"
    invitation, _ = coordinator_home.invite(study.home, NORTH, study.server.address)
    home.enrol(folder, invitation.code(), None)
    study.state.strike(SiteId(NORTH))
    hospital.state.rename(tmp_path / "kept")
    folder.rename(hospital.state)
    found = hospital.fault()
    assert found.name == "coordinator"
    assert "struck" in found.text


def test_asking_is_no_presence_in_a_round(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    attended: list[object] = []
    driver = hospital.study.service._driver
    monkeypatch.setattr(driver, "attend", lambda *a, **_: attended.append(a))
    assert {f.name for f in hospital.examine().findings if f.state is State.MEND} == set()
    assert not attended
