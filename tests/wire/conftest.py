"""A small coordinator on loopback with real certificates, and a link that can be cut."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes

from primia.errors import IdentityError, PeerError, RoundFailed
from primia.identity import authority as authorities
from primia.identity.certificate import Role, to_pem
from primia.identity.enrolment import make_request
from primia.identity.invitation import Invitation
from primia.identity.keyfile import key_to_pem, new_key
from primia.protocol.messages import RoundId, RoundKind
from primia.types import Digest, SiteId, sha256
from primia.wire.channel import ClientTls
from primia.wire.client import FederationClient
from primia.wire.handler import Attendance, Enrolment, StudyBundle, UploadKey, UploadSlot
from primia.wire.server import ServerTls, serve

MUNICH = SiteId("munich")


class Coordinator:
    """A `FederationHandler` that keeps everything in memory and records what it saw."""

    def __init__(self, folder: Path, authority) -> None:
        self.folder = folder
        self.authority = authority
        self.struck: set[str] = set()
        self.invited: dict[bytes, bytes | None] = {}  # fingerprint → request that used it
        self.issued: dict[bytes, bytes] = {}
        self.answers: list[tuple[str, object]] = []
        self.models: dict[Digest, Path] = {}
        self.finished: dict[bytes, list[bytes]] = {}  # session → digests of completed uploads
        self.limit = 1 << 30
        self.news: Attendance | None = None
        self.changed = threading.Condition()
        self.stopping = False
        self.fail: Exception | None = None
        self.renewed = b""
        self.asked = 0
        self.refusals: list[tuple[str, str]] = []

    def authorise(self, identity, certificate):
        if identity.role is Role.ENROL:
            if certificate.fingerprint(hashes.SHA256()) not in self.invited:
                raise IdentityError("this invitation was not given out")
        elif identity.name in self.struck:
            raise IdentityError(f"{identity} was struck from the roster; ask the coordinator")

    def refused(self, caller, reason):
        self.refusals.append((caller, reason))

    def enrol(self, identity, certificate, csr):
        mark = certificate.fingerprint(hashes.SHA256())
        if self.invited[mark] not in (None, csr):
            raise IdentityError("this invitation was already used; ask for a new one")
        if self.invited[mark] is None:
            self.invited[mark] = csr
            now = datetime.now(UTC)
            made = self.authority.issue_site(csr, identity.site, now=now, valid_days=30)
            self.issued[mark] = to_pem(made)
        return Enrolment(self.issued[mark], to_pem(self.authority.certificate))

    def renew(self, identity):
        if self.fail:
            raise self.fail
        return self.renewed

    def check_standing(self, identity):
        if identity.name in self.struck:
            raise IdentityError(f"{identity} was struck from the roster; ask the coordinator")

    def study(self, identity):
        if self.fail:
            raise self.fail
        return StudyBundle(b"plan", b"signature", b"coordinator", (b"a", b"b"))

    def attend(self, identity, after, timeout_s):
        with self.changed:
            self.changed.wait_for(
                lambda: self.stopping or (self.news and self.news.serial > after), timeout_s
            )
            fresh = self.news is not None and self.news.serial > after
            return self.news if fresh else Attendance(after)

    def announce(self, news):
        with self.changed:
            self.news = news
            self.changed.notify_all()

    def answer(self, identity, answer):
        self.answers.append((identity.name, answer))

    def model(self, identity, digest):
        if digest not in self.models:
            raise PeerError("no such model in this study")
        return self.models[digest]

    def upload_slot(self, identity, key):
        self.asked += 1
        if key.round.number > 1:
            raise RoundFailed("round 2 is closed")
        path = self.folder / f"{identity.name}-{key.session.hex()}"
        return UploadSlot(path, self.limit, complete=key.session in self.finished)

    def upload_progress(self, identity, key, received, total):
        self.seen = (received, total)

    def upload_complete(self, identity, key, path, sha256):
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        assert found == sha256
        self.finished.setdefault(key.session, []).append(found)
        path.unlink()


class World:
    """One study: authority, coordinator's certificate, a server, and sites as needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = datetime.now(UTC)
        self.authority = authorities.create(
            folder / "authority", "chest", now=self.now, valid_days=400
        )
        self.authority_pem = to_pem(self.authority.certificate)
        key = new_key()
        self.coordinator_pem = to_pem(
            self.authority.issue_coordinator(key.public_key(), "chest", now=self.now, valid_days=90)
        )
        self.key_pem = key_to_pem(key)
        self.anchors: tuple[bytes, ...] = ()
        self.handler = Coordinator(folder, self.authority)
        self._ends = contextlib.ExitStack()
        self.server = self.serve()
        self.address = self.server.address

    def server_tls(self) -> ServerTls:
        return ServerTls(
            certificate=self.coordinator_pem,
            key=self.key_pem,
            authority=self.authority_pem,
            anchors=self.anchors,
        )

    def serve(self, **changes):
        settings = {"listen": "127.0.0.1:0", "tls": self.server_tls, "max_sites": 4, **changes}
        return self._ends.enter_context(serve(self.handler, **settings))

    def site_tls(self, site=MUNICH, authority=None, *, now=None, valid_days=30) -> ClientTls:
        authority = authority or self.authority
        key = new_key()
        made = authority.issue_site(
            make_request(key), site, now=now or self.now, valid_days=valid_days
        )
        return ClientTls(to_pem(authority.certificate), to_pem(made), key_to_pem(key))

    def client(self, tls=None, address=None, **changes) -> FederationClient:
        client = FederationClient(
            address or self.address, tls or self.site_tls(), pause_s=0.02, **changes
        )
        self._ends.callback(client.close)
        return client

    def relay(self, *cuts: int) -> Relay:
        return self._ends.enter_context(Relay(self.server.port, cuts))

    def invite(self, site=MUNICH, *, address=None) -> Invitation:
        invitation = Invitation(
            address=address or self.address,
            site=site,
            authority=self.authority.certificate.fingerprint(hashes.SHA256()),
            not_after=(self.now + timedelta(days=2)).replace(microsecond=0),
            secret=hashlib.sha256(site.encode() + self.authority_pem).digest(),
        )
        certificate = invitation.certificate()
        self.handler.invited[certificate.fingerprint(hashes.SHA256())] = None
        self.anchors += (to_pem(certificate),)
        return invitation

    def add_model(self, data: bytes) -> Digest:
        path = self.folder / "model"
        path.write_bytes(data)
        self.handler.models[sha256(data)] = path
        return sha256(data)

    def close(self) -> None:
        with self.handler.changed:
            self.handler.stopping = True
            self.handler.changed.notify_all()
        self._ends.close()


class Relay:
    """A TCP relay to `port`; connection number i is cut after cuts[i] bytes in both directions."""

    def __init__(self, port: int, cuts) -> None:
        self._to = port
        self._cuts = itertools.chain(cuts, itertools.repeat(None))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0  # one more than the cuts, when all went well
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection(("127.0.0.1", self._to))
            budget = [next(self._cuts)]  # shared by both directions
            for source, sink in ((near, far), (far, near)):
                threading.Thread(
                    target=self._pump, args=(source, sink, budget), daemon=True
                ).start()

    def _pump(self, source, sink, budget) -> None:
        try:
            while data := source.recv(1 << 16):
                if budget[0] is not None:
                    budget[0] -= len(data)
                    if budget[0] < 0:
                        break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_) -> None:
        self._listener.close()


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def upload_key():
    round = RoundId(Digest("1" * 64), 1, 1, RoundKind.TRAIN, Digest("2" * 64))
    return UploadKey(round, b"s" * 32)
