"""Films decoded in child processes, so that a hostile one costs itself and nothing else."""

from __future__ import annotations

import json
import os
import queue
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from primia.errors import DataError
from primia.imaging.child import READY, REPLY, REQUEST
from primia.imaging.pictures import MAX_PIXELS, Defect, Picture

WALL_S = 120.0  # for one film, files on a slow network drive included
START_S = 120.0
MAX_CHILDREN = 4
MAX_HEAD = 4096  # bytes of a reply before its pixels
COMMAND = (sys.executable, "-P", "-m", "primia.imaging.child")


class Sandbox:
    """A few children that live as long as the `with` block and decode its films.

    A child that dies over a film is replaced and the film tried once more, because a machine short
    of memory ends processes that did nothing wrong. One that hangs is replaced, its film is not.
    """

    def __init__(self, children: int | None = None, *, wall_s: float = WALL_S) -> None:
        self._count = children or max(1, min(MAX_CHILDREN, len(os.sched_getaffinity(0))))
        self._wall_s = wall_s
        self._free: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(self._count):
            self._free.put(None)  # started when first needed
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="films")
        self._started: list[_Child] = []
        self._given_up = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _err: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if _type is not None:  # nobody waits for the films at hand
            self._given_up = True
            for started in list(self._started):
                started.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        while not self._free.empty():
            child = self._free.get()
            if child is not None:
                child.close()

    def decode(self, films: Sequence[tuple[Path, bool]], size: int) -> Iterator[Picture | Defect]:
        """Decode each (path, any view?) into (size, size) uint8, in the order given.

        Raises DataError when no child can be started.
        """
        return self._threads.map(lambda film: self._one(film[0], size, film[1]), films)

    def _one(self, path: Path, size: int, any_view: bool) -> Picture | Defect:
        try:
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return Defect.MISSING
        except OSError:
            return Defect.DAMAGED
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                return Defect.NO_FILE
            for _ in range(2):
                if self._given_up:
                    break
                os.lseek(file, 0, os.SEEK_SET)
                answer = self._ask(file, size, any_view)
                if answer is not None:
                    return answer
            return Defect.LIMITS
        finally:
            os.close(file)

    def _ask(self, file: int, size: int, any_view: bool) -> Picture | Defect | None:
        """None when the child died over it."""
        child = self._free.get()
        keep: _Child | None = None
        try:
            if child is None:
                child = _Child()
                self._started.append(child)
            answer = child.decode(file, size, any_view, self._wall_s)
            keep = child
            return answer
        except TimeoutError:
            return Defect.LIMITS
        except _Died:
            return None
        finally:
            if keep is None and child is not None:
                self._started.remove(child)
                child.close()
            self._free.put(keep)


class _Died(Exception):
    """The child ended, or said what no child says."""


class _Child:
    """One process and the socket to it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                COMMAND, stdin=theirs.fileno(), env=_environment(),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            if self._receive(len(READY), time.monotonic() + START_S) == READY:
                return
        except (TimeoutError, _Died):
            pass
        self.close()
        raise DataError(
            "the process that decodes films does not start; run "
            f"`{' '.join(COMMAND)} < /dev/null` to see why"
        )

    def decode(self, file: int, size: int, any_view: bool, wall_s: float) -> Picture | Defect:
        """Raises TimeoutError or _Died; then the child must be closed."""
        deadline = time.monotonic() + wall_s
        try:
            self._socket.settimeout(wall_s)
            socket.send_fds(self._socket, [REQUEST.pack(size, any_view)], [file])
        except OSError as err:
            raise _Died from err
        (length,) = REPLY.unpack(self._receive(REPLY.size, deadline))
        if length > MAX_HEAD:
            raise _Died
        head = _parse(self._receive(length, deadline))
        if "defect" in head:
            return _defect(head["defect"])
        pixels = np.frombuffer(self._receive(size * size, deadline), np.uint8)
        square = pixels.reshape(size, size)
        return Picture(square, _text(head, "patient"), _text(head, "issuer"), _edge(head))

    def kill(self) -> None:
        """End the process; whoever waits for its answer finds it dead."""
        self._process.kill()

    def close(self) -> None:
        """End the process, and let go of it."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _receive(self, length: int, deadline: float) -> bytes:
        received = bytearray()
        while len(received) < length:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            try:
                part = self._socket.recv(length - len(received))
            except TimeoutError:
                raise
            except OSError as err:
                raise _Died from err
            if not part:
                raise _Died
            received += part
        return bytes(received)


def _environment() -> dict[str, str]:
    """What Python needs to find its modules, and nothing else of the worker's."""
    path = os.pathsep.join(p for p in sys.path if p)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8", **threads}


# A reply comes from a process that has looked at a hostile file, so it is checked like one.


def _parse(head: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(head)
    except (ValueError, RecursionError) as err:
        raise _Died from err
    if not isinstance(parsed, dict):
        raise _Died
    return parsed


def _defect(name: object) -> Defect:
    if isinstance(name, str) and name in Defect.__members__:
        return Defect[name]
    raise _Died


def _edge(head: dict[str, Any]) -> int:
    edge = head.get("edge")
    if type(edge) is int and 0 < edge <= MAX_PIXELS:
        return edge
    raise _Died


def _text(head: dict[str, Any], key: str) -> str | None:
    value = head.get(key)
    if value is None:
        return None
    try:
        if isinstance(value, str) and value.encode():
            return value
    except UnicodeEncodeError as err:  # half a character
        raise _Died from err
    raise _Died
