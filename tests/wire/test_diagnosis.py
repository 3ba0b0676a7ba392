"""Each way in which a connection fails has its own words."""

from __future__ import annotations

import socket
import threading
from concurrent import futures
from datetime import timedelta

import grpc
import pytest

from primia.errors import IdentityError, Unreachable
from primia.identity import authority as authorities
from primia.identity.certificate import to_pem
from primia.identity.keyfile import key_to_pem, new_key
from primia.wire.channel import ClientTls
from primia.wire.diagnosis import diagnose, proxy_for, served_certificate
from primia.wire.server import ServerTls


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def server_tls(world, *, authority=None, now=None, valid_days=9) -> ServerTls:
    authority = authority or world.authority
    key = new_key()
    made = authority.issue_coordinator(
        key.public_key(), "chest", now=now or world.now, valid_days=valid_days
    )
    return ServerTls(certificate=to_pem(made), key=key_to_pem(key), authority=world.authority_pem)


def refusal(world, address) -> str:
    """What a site's own call says, not the diagnosis alone."""
    with pytest.raises((Unreachable, IdentityError)) as caught:
        world.client(address=address).get_study()
    return str(caught.value)


def test_nothing_listens(world):
    assert "nothing listens at" in refusal(world, f"127.0.0.1:{free_port()}")


def test_a_name_that_does_not_resolve(world):
    assert "cannot be resolved" in refusal(world, "no-such-host.invalid:7443")


def test_a_plaintext_grpc_server(world):
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert "does not speak TLS" in refusal(world, f"127.0.0.1:{port}")
    finally:
        server.stop(0)


def test_a_server_of_a_foreign_authority(world, tmp_path):
    other = authorities.create(tmp_path / "other", "lungs", now=world.now, valid_days=9)
    server = world.serve(tls=lambda: server_tls(world, authority=other))
    assert "foreign authority" in refusal(world, server.address)


def test_a_server_whose_certificate_expired_or_is_not_valid_yet(world, tmp_path):
    old = authorities.create(
        tmp_path / "old", "chest", now=world.now - timedelta(days=90), valid_days=400
    )
    early = authorities.create(
        tmp_path / "early", "chest", now=world.now + timedelta(days=9), valid_days=400
    )
    for authority, now, says in (
        (old, world.now - timedelta(days=60), "has expired by this machine's clock"),
        (early, world.now + timedelta(days=10), "not valid yet by this machine's clock"),
    ):
        tls = server_tls(world, authority=authority, now=now)
        server = world.serve(tls=lambda tls=tls: tls)
        site = world.site_tls()
        trusting = ClientTls(to_pem(authority.certificate), site.certificate, site.key)
        found = diagnose(server.address, trusting)
        assert isinstance(found, IdentityError)
        assert says in str(found)


def test_our_certificate_is_of_another_authority_than_the_server_takes(world, tmp_path):
    other = authorities.create(tmp_path / "other", "chest", now=world.now, valid_days=9)
    mine = world.site_tls(authority=other)
    tls = ClientTls(world.authority_pem, mine.certificate, mine.key)
    found = diagnose(world.address, tls)
    assert isinstance(found, IdentityError)
    assert "refused our certificate" in str(found)


def out_of_date(world, tmp_path):
    """A certificate that has ended and one that has not begun, both of the right authority."""
    past = world.now - timedelta(days=30)
    world.authority = authorities.create(tmp_path / "old", "chest", now=past, valid_days=400)
    world.authority_pem = to_pem(world.authority.certificate)
    tls = server_tls(world)
    server = world.serve(tls=lambda: tls)
    ended = world.site_tls(now=world.now - timedelta(days=3), valid_days=2)
    return server.address, ended, world.site_tls(now=world.now + timedelta(days=3))


def test_our_certificate_ends_while_the_channel_is_open(world, tmp_path):
    """The coordinator's clock says so, too: it hangs up, and we know why by ourselves."""
    address, ended, early = out_of_date(world, tmp_path)
    found = diagnose(address, ended)
    assert isinstance(found, IdentityError)
    assert "our certificate expired on" in str(found)
    assert "our certificate is not valid before" in str(diagnose(address, early))


def test_a_site_without_a_certificate_is_told_to_enrol(world):
    good = world.site_tls()
    with pytest.raises(IdentityError, match="no certificate to show; enrol first"):
        world.client(ClientTls(good.authority, b"", good.key))


def test_every_cause_has_a_text_of_its_own_with_a_remedy(world, tmp_path):
    """gRPC says "Socket closed" for all of them. A retired authority: tests/renewal."""
    other = authorities.create(tmp_path / "other", "lungs", now=world.now, valid_days=9)
    foreign = world.site_tls(authority=other)
    ours = world.site_tls()
    taken_by_nobody = ClientTls(world.authority_pem, foreign.certificate, foreign.key)
    strange = server_tls(world, authority=other)
    server = world.serve(tls=lambda: strange)
    causes = {
        str(diagnose(world.address, taken_by_nobody)): "enrol again",
        str(diagnose(server.address, ours)): "wrong address",
        str(diagnose(f"127.0.0.1:{free_port()}", ours)): "is the coordinator running",
    }
    address, ended, early = out_of_date(world, tmp_path)
    causes |= {
        str(diagnose(address, early)): "check the clock",
        str(diagnose(address, ended)): "enrol again",
    }
    assert len(causes) == 5
    for text, remedy in causes.items():
        assert remedy in text


def test_our_own_files_are_checked_before_dialling(world, tmp_path):
    other = authorities.create(tmp_path / "other", "chest", now=world.now, valid_days=9)
    foreign = world.site_tls(authority=other)
    expired = world.site_tls(now=world.now, valid_days=1)
    good = world.site_tls()
    for tls, later, says in (
        (ClientTls(world.authority_pem, foreign.certificate, foreign.key), 0, "not issued by"),
        (expired, 2, "expired on"),
        (expired, -2, "check the clock"),
        (ClientTls(world.authority_pem, good.certificate, foreign.key), 0, "does not belong"),
    ):
        now = world.now + timedelta(days=later)
        with pytest.raises(IdentityError, match=says):
            world.client(tls, now=lambda now=now: now)


def test_a_server_that_accepts_and_says_nothing(world):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        found = diagnose(address, world.site_tls(), timeout_s=0.3)
        assert "does not answer" in str(found)
        with pytest.raises(Unreachable):
            served_certificate(address, timeout_s=0.3)


def test_a_healthy_coordinator_is_not_called_broken(world):
    assert "answers again" in str(diagnose(world.address, world.site_tls()))


def test_a_dead_proxy_is_named_without_its_password(world, monkeypatch):
    port = free_port()
    monkeypatch.setenv("https_proxy", f"http://user:hunter2@127.0.0.1:{port}")
    said = refusal(world, world.address)
    assert f"the proxy 127.0.0.1:{port} named in https_proxy does not answer" in said
    assert "hunter2" not in said


def test_a_proxy_that_refuses_is_named_with_its_answer(world, monkeypatch):
    with proxy(b"HTTP/1.1 403 Forbidden\r\n\r\n") as address:
        monkeypatch.setenv("http_proxy", f"http://{address}")
        assert "403 Forbidden" in refusal(world, world.address)


def test_a_proxy_by_connect_is_passed(world, monkeypatch):
    with proxy(None) as address:
        monkeypatch.setenv("https_proxy", f"http://{address}")
        assert world.client().get_study().plan == b"plan"
        assert served_certificate(world.address).strip() == world.coordinator_pem.strip()


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"http_proxy": "http://p:1"}, ("http_proxy", "http://p:1")),
        ({"http_proxy": "http://p:1", "grpc_proxy": "http://q:1"}, ("grpc_proxy", "http://q:1")),
        ({"https_proxy": "http://p:1", "no_proxy": "x, lab.example"}, None),
        ({"https_proxy": "http://p:1", "no_proxy": ".example"}, None),
        ({"https_proxy": "http://p:1", "no_proxy": "other"}, ("https_proxy", "http://p:1")),
        ({"HTTPS_PROXY": "http://p:1"}, None),
    ],
)
def test_the_proxy_is_the_one_that_grpc_takes(environment, found):
    assert proxy_for("lab.example", environment) == found


class proxy:  # noqa: N801
    """A proxy that gives one fixed answer, or (None) really connects."""

    def __init__(self, answer: bytes | None) -> None:
        self._answer = answer

    def __enter__(self) -> str:
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._run, daemon=True).start()
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *_) -> None:
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near) -> None:
        with near:
            head = near.recv(4096)
            if self._answer is not None:
                near.sendall(self._answer)
                return
            host, _, port = head.split()[1].decode().rpartition(":")
            far = socket.create_connection((host, int(port)))
            near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            threading.Thread(target=_pump, args=(far, near), daemon=True).start()
            _pump(near, far)


def _pump(source, sink) -> None:
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
