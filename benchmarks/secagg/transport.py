"""One upload by several ways, over mutual TLS on loopback.

    python -m benchmarks.secagg.transport FOLDER    (the receiving end; `Receiver` starts it)

Both ends are processes of their own, as a site and its coordinator are. Connections are open and
warm before the clock starts; it stops when the other end has said that all bytes came.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from benchmarks.secagg.rounds import ROUND
from primia.identity import authority as authorities
from primia.identity.certificate import COORDINATOR_HOST, to_pem
from primia.identity.enrolment import make_request
from primia.identity.keyfile import key_to_pem, new_key
from primia.protocol.messages import Answer
from primia.types import Digest, SiteId
from primia.wire.channel import CHUNK, OPTIONS, ClientTls, connect
from primia.wire.client import FederationClient
from primia.wire.handler import UploadKey, UploadSlot
from primia.wire.server import OPTIONS as SERVER_OPTIONS
from primia.wire.server import ServerTls, serve

ROOT = Path(__file__).parents[2]
SITE = SiteId("site-0000")
WAYS = {
    "tls-socket": "a Python TLS 1.3 socket; bytes dropped",
    "tls-socket-spool": "the same with a SHA-256 at both ends and a spool file",
    "grpc-stream": "1 MiB frames in one gRPC stream; bytes dropped",
    "grpc-unary": "one gRPC message; bytes dropped",
    "primia": "the product: frames, spool, SHA-256 at both ends",
}
_NO_LIMIT = {"grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1}


class Receiver:
    """The other end, running, and the ways to send it bytes; use it in a `with`."""

    def __init__(self, folder: Path) -> None:
        make_certificates(folder, [SITE])
        command = [sys.executable, "-m", "benchmarks.secagg.transport", str(folder)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        ports = json.loads(self._process.stdout.readline())
        here = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        tls = client_tls(folder, SITE)
        credentials = grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate)
        self._stream = connect(here["stream"], tls).stream_unary(
            "/bench.Bench/Send", request_serializer=None, response_deserializer=None
        )
        asked = {"grpc.ssl_target_name_override": COORDINATOR_HOST}
        options = list((dict(OPTIONS) | _NO_LIMIT | asked).items())
        unary = grpc.secure_channel(here["unary"], credentials, options=options)
        self._unary = unary.unary_unary(
            "/bench.Bench/Send", request_serializer=None, response_deserializer=None
        )
        self._client = FederationClient(here["primia"], tls)
        self._tls, self._port = tls, ports["primia"]
        context = _context(folder, SITE, ssl.PROTOCOL_TLS_CLIENT)
        self._socket = context.wrap_socket(
            socket.create_connection(("127.0.0.1", ports["socket"])),
            server_hostname=COORDINATOR_HOST,
        )
        self._attempts = itertools.count(1)

    def ways(self, data: bytes) -> dict[str, Callable[[], None]]:
        """Each sends `data` once, by the names of WAYS."""
        return {
            "tls-socket": lambda: self._by_socket(data, b"drop"),
            "tls-socket-spool": lambda: self._by_socket(data, b"keep"),
            "grpc-stream": lambda: self._stream(_pieces(data)),
            "grpc-unary": lambda: self._unary(data),
            "primia": lambda: self._client.upload(self._next_key(), data),
        }

    def bytes_up(self, data: bytes, answers: Sequence[Answer]) -> int:
        """Bytes on the wire from a site that sends `answers` and uploads `data`, all included:
        its handshake, TLS records, HTTP/2 frames, acknowledgements."""
        with Counter(self._port) as counter:
            client = FederationClient(counter.address, self._tls)
            for answer in answers:
                client.answer(answer)
            client.upload(self._next_key(), data)
            client.close()
            return counter.up

    def _by_socket(self, data: bytes, what: bytes) -> None:
        digest = hashlib.sha256(data).digest() if what == b"keep" else bytes(32)
        self._socket.sendall(what + len(data).to_bytes(8, "big") + digest)
        for start in range(0, len(data), CHUNK):
            self._socket.sendall(memoryview(data)[start : start + CHUNK])
        assert self._socket.recv(1) == b"+"

    def _next_key(self) -> UploadKey:
        return UploadKey(replace(ROUND, attempt=next(self._attempts)), b"s" * 32)

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._socket.close()
        self._process.communicate()  # it ends with its input


class Counter:
    """A relay to a port of this machine that counts what comes from the one who dials."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.up = 0
        threading.Thread(target=self._relay, daemon=True).start()

    def _relay(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._port))
        threading.Thread(target=self._pass_on, args=(far, near, False), daemon=True).start()
        self._pass_on(near, far, True)

    def _pass_on(self, source: socket.socket, sink: socket.socket, count: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.up += len(data) if count else 0
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()


def _pieces(data: bytes) -> Iterator[bytes]:
    view = memoryview(data)
    return (bytes(view[start : start + CHUNK]) for start in range(0, len(data), CHUNK))


def make_certificates(folder: Path, sites: Sequence[SiteId]) -> None:
    """An authority, a coordinator and these sites, as PEM files in `folder`."""
    now = datetime.now(UTC)
    authority = authorities.create(folder / "authority", "bench", now=now, valid_days=2)
    key = new_key()
    made = authority.issue_coordinator(key.public_key(), "bench", now=now, valid_days=1)
    files = {
        "ca": to_pem(authority.certificate),
        "coordinator": to_pem(made),
        "coordinator.key": key_to_pem(key),
    }
    for site in sites:
        key = new_key()
        made = authority.issue_site(make_request(key), site, now=now, valid_days=1)
        files |= {site: to_pem(made), f"{site}.key": key_to_pem(key)}
    for name, data in files.items():
        (folder / f"{name}.pem").write_bytes(data)


def client_tls(folder: Path, site: SiteId) -> ClientTls:
    """What a site dials with."""
    return ClientTls(_pem(folder, "ca"), _pem(folder, site), _pem(folder, f"{site}.key"))


def server_tls(folder: Path) -> ServerTls:
    """What the coordinator serves with."""
    return ServerTls(
        certificate=_pem(folder, "coordinator"),
        authority=_pem(folder, "ca"),
        key=_pem(folder, "coordinator.key"),
    )


# --- the receiving process -----------------------------------------------------------------------


class Spool:
    """As much of a `FederationHandler` as an upload needs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def authorise(self, *_: Any) -> None: ...

    def upload_slot(self, _: Any, key: UploadKey) -> UploadSlot:
        return UploadSlot(self._folder / f"spool-{key.round.attempt}", 1 << 32)

    def answer(self, *_: Any) -> None: ...

    def renew(self, *_: Any) -> bytes:
        raise NotImplementedError

    def check_standing(self, *_: Any) -> None: ...

    def upload_progress(self, *_: Any) -> None: ...

    def upload_complete(self, _: Any, __: UploadKey, path: Path, ___: Digest) -> None:
        path.unlink()


def _receive(folder: Path) -> None:
    """Serve all ways until the input ends; prints the ports."""
    tls = server_tls(folder)
    unary = grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")
    bare = {
        "stream": _serve_bare(grpc.stream_unary_rpc_method_handler(_drop), tls, {}),
        "unary": _serve_bare(unary, tls, _NO_LIMIT),
    }
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve_socket, args=(listener, folder), daemon=True).start()
    product: Any = Spool(folder)
    with serve(product, listen="127.0.0.1:0", tls=lambda: tls) as server:
        ports = {name: port for name, (_, port) in bare.items()}
        ports |= {"primia": server.port, "socket": listener.getsockname()[1]}
        print(json.dumps(ports), flush=True)
        sys.stdin.read()
    for bare_server, _ in bare.values():
        bare_server.stop(0)


def _serve_bare(method: Any, tls: ServerTls, more: dict[str, int]) -> tuple[grpc.Server, int]:
    """A server of one method with primia's options and `more`, and its port."""
    options = list((dict(SERVER_OPTIONS) | more).items())
    server = grpc.server(ThreadPoolExecutor(2), options=options)
    handler = grpc.method_handlers_generic_handler("bench.Bench", {"Send": method})
    server.add_generic_rpc_handlers((handler,))
    credentials = grpc.ssl_server_credentials([(tls.key, tls.certificate)], tls.authority, True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return server, port


def _drop(requests: Iterator[bytes], _context: object) -> bytes:
    for _ in requests:
        pass
    return b""


def _serve_socket(listener: socket.socket, folder: Path) -> None:
    accepted, _ = listener.accept()
    link = _context(folder, "coordinator", ssl.PROTOCOL_TLS_SERVER).wrap_socket(
        accepted, server_side=True
    )
    buffer = memoryview(bytearray(CHUNK))
    path = folder / "socket-spool"
    while head := link.recv(44):
        left, digest = int.from_bytes(head[4:12], "big"), head[12:]
        hasher = hashlib.sha256()
        with path.open("wb") as file:
            while left:
                got = buffer[: link.recv_into(buffer, min(left, CHUNK))]
                left -= len(got)
                if head[:4] == b"keep":
                    file.write(got)
                    hasher.update(got)
        assert head[:4] == b"drop" or hasher.digest() == digest
        path.unlink()
        link.sendall(b"+")


def _context(folder: Path, who: str, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(folder / "ca.pem")
    context.load_cert_chain(folder / f"{who}.pem", folder / f"{who}.key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _pem(folder: Path, name: str) -> bytes:
    return (folder / f"{name}.pem").read_bytes()


if __name__ == "__main__":
    _receive(Path(sys.argv[1]))
