"""A TCP relay on the loopback that does to a link what networks do: cut, throttle, swallow, delay.

Its settings may be changed while connections are open; they hold from the next piece on.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import Self

PIECE = 16 << 10


@dataclass
class Relay:
    """Relays 127.0.0.1:`port` to `to_port` in a thread of its own; use it in a `with`.

    rate: bytes a second, each way and connection. delay_s: how much later each piece arrives.
    cut_after: bytes from the client after which a connection is reset; one cut for each entry.
    """

    to_port: int
    rate: float | None = None
    delay_s: float = 0.0
    cut_after: list[int] = field(default_factory=list)
    refuse: bool = False  # hang up on whoever dials
    connections: int = 0
    sent_up: int = 0  # bytes from clients
    cuts: int = 0
    port: int = 0

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.Task[None]] = set()
        self._swallowed: set[int] = set()  # numbers of connections whose bytes go nowhere
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Reset every open connection."""
        self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._open])

    def swallow(self) -> None:
        """From now on nothing passes on the open connections, and nobody is told."""
        self._swallowed.update(range(self.connections))

    def __enter__(self) -> Self:
        self._thread.start()
        ask = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._accept, "127.0.0.1", self.port), self._loop
        )
        self._server = ask.result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self.cut()
        time.sleep(0.05)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _accept(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        if self.refuse:
            near_out.transport.abort()
            return
        try:
            far_in, far_out = await asyncio.open_connection("127.0.0.1", self.to_port)
        except OSError:
            near_out.transport.abort()
            return
        up = asyncio.create_task(self._pump(near_in, far_out, number, up=True))
        down = asyncio.create_task(self._pump(far_in, near_out, number, up=False))
        self._open |= {up, down}
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        for task in (up, down):
            task.cancel()
            self._open.discard(task)
        near_out.transport.abort()
        far_out.transport.abort()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, number: int, *, up: bool
    ) -> None:
        budget = None
        with contextlib.suppress(OSError):
            while data := await source.read(PIECE):
                if number in self._swallowed:
                    await asyncio.sleep(3600)
                if up:
                    self.sent_up += len(data)
                    if budget is None and self.cut_after:
                        budget = self.cut_after[0]
                    if budget is not None:
                        budget -= len(data)
                        if budget < 0:
                            if self.cut_after:
                                self.cut_after.pop(0)
                            self.cuts += 1
                            await asyncio.sleep(0.5)  # what passed before the cut arrives
                            return
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.rate:
                    await asyncio.sleep(len(data) / self.rate)
                sink.write(data)
                await sink.drain()
