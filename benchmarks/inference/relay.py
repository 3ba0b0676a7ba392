"""A link between two ports of this machine: so many bits a second, so many milliseconds away.

    python -m benchmarks.inference.relay LISTEN TARGET MBIT DELAY_MS

What arrives at the port LISTEN goes on to the port TARGET, and back, each way with its own rate
and delay. A stand-in for `tc netem`, which needs root and a kernel that has it. Nothing is dropped
or reordered, and the TCP behind it never waits for a window: figures are a little too good.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

PIECE = 1 << 16
QUEUED = 64  # pieces on their way before the sender has to wait


async def carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: float, delay: float
) -> None:
    """One direction. rate: bytes a second, shared by nobody; delay: seconds."""
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED)

    async def deliver() -> None:
        while True:
            due, data = await queue.get()
            # The loop's own sleep is too coarse for half a millisecond under load: the last bit
            # is waited for in turns.
            while (left := due - time.monotonic()) > 0:
                await asyncio.sleep(left if left > 0.002 else 0)
            if not data:
                break
            writer.write(data)
            await writer.drain()
        writer.close()

    task = asyncio.create_task(deliver())
    free = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(PIECE):
            free = max(free, time.monotonic()) + len(data) / rate
            await queue.put((free + delay, data))
    await queue.put((0.0, b""))
    with contextlib.suppress(ConnectionError):
        await task


async def serve(listen: int, target: int, rate: float, delay: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(carry(reader, back, rate, delay), carry(there, writer, rate, delay))

    server = await asyncio.start_server(connected, "127.0.0.1", listen)
    print("listening", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    listen_, target_, mbit, delay_ms = (float(a) for a in sys.argv[1:])
    asyncio.run(serve(int(listen_), int(target_), mbit * 1e6 / 8, delay_ms / 1e3))
