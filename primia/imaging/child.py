"""The process that decodes films: it gets open files, gives back squares, and may die of it.

Started by sandbox.py with a socket as standard input. It can write no file and dump no core, and
its memory and time are limited, so that what a hostile film does to a decoder stays in here.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import struct

from primia.imaging import dicom, pictures
from primia.imaging.pictures import MAX_FILE_BYTES, Defect, Picture

MEMORY = 3 << 30  # of address space; the largest film allowed takes 1.5 GiB
CPU_S = 60  # for one film

REQUEST = struct.Struct(">H?")  # edge of the square, any view; with it the open file
REPLY = struct.Struct(">I")  # length of the JSON that follows, and after it the pixels
READY = b"films\n"


def decode(raw: bytes, size: int, *, any_view: bool = False) -> Picture | Defect:
    """A film of any form, told apart by content. See pictures.decode and dicom.decode."""
    if len(raw) > MAX_FILE_BYTES:
        return Defect.LARGE
    try:
        if dicom.is_dicom(raw[:132]):
            return dicom.decode(raw, size, any_view=any_view)
        return pictures.decode(raw, size)
    except MemoryError:
        return Defect.LIMITS


def main() -> None:
    """Answer requests until the parent hangs up."""
    _limit()
    with socket.socket(fileno=0) as parent:
        parent.sendall(READY)
        while True:
            request, files, _, _ = socket.recv_fds(parent, REQUEST.size, 1)
            if not request:
                return
            size, any_view = REQUEST.unpack(request)
            _limit_cpu()
            parent.sendall(_reply(_decode_file(files[0], size, any_view)))


def _decode_file(file: int, size: int, any_view: bool) -> Picture | Defect:
    try:
        with os.fdopen(file, "rb") as opened:
            raw = opened.read(MAX_FILE_BYTES + 1)
    except OSError:
        return Defect.DAMAGED
    return decode(raw, size, any_view=any_view)


def _reply(answer: Picture | Defect) -> bytes:
    if isinstance(answer, Defect):
        head, body = json.dumps({"defect": answer.name}), b""
    else:
        head = json.dumps({"patient": answer.patient, "issuer": answer.issuer, "edge": answer.edge})
        body = answer.pixels.tobytes()
    return REPLY.pack(len(head)) + head.encode() + body


def _limit() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it hangs up on us
    for what, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def _limit_cpu() -> None:
    """The limit is for the life of a process, so it moves on with each film."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used.ru_utime + used.ru_stime) + 1 + CPU_S
    if hard == resource.RLIM_INFINITY or soft < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


if __name__ == "__main__":
    main()
