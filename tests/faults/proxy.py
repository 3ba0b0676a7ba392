"""A tiny HTTP CONNECT proxy, with or without a password."""

from __future__ import annotations

import base64
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self


@dataclass
class ConnectProxy:
    """Listens on the loopback; `asked` are the targets that it was asked for and let through."""

    password: str | None = None  # as user:password
    asked: list[str] = field(default_factory=list)
    refused: int = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += near.recv(4096)
            lines = head.decode("latin-1").split("\r\n")
            verb, target, _ = lines[0].split(" ")
            headers = {k.lower(): v for k, _, v in (x.partition(": ") for x in lines[1:])}
            if self.password is not None:
                expected = "Basic " + base64.b64encode(self.password.encode()).decode()
                if headers.get("proxy-authorization") != expected:
                    self.refused += 1
                    near.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                    near.close()
                    return
            assert verb == "CONNECT"
            host, _, port = target.rpartition(":")
            far = socket.create_connection((host, int(port)))
            self.asked.append(target)
            near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            threading.Thread(target=_pump, args=(far, near), daemon=True).start()
            _pump(near, far)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
