"""A worker that also writes every message that it sends to the file SENT, as it is on the wire."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from primia.wire import client

SENT = Path(os.environ["SENT"])
connect = client.connect


def note(message: Any) -> None:
    data = message if isinstance(message, bytes) else message.SerializeToString()
    with SENT.open("ab") as file:
        file.write(data)


class Recorder(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
):
    def intercept_unary_unary(self, go_on, details, request):
        note(request)
        return go_on(details, request)

    intercept_unary_stream = intercept_unary_unary

    def intercept_stream_unary(self, go_on, details, requests):
        def noted() -> Iterator[Any]:
            for request in requests:
                note(request)
                yield request

        return go_on(details, noted())


client.connect = lambda *a, **k: grpc.intercept_channel(connect(*a, **k), Recorder())

if __name__ == "__main__":
    from worker.cli import main

    main()
