"""Failed handshakes, as log lines of the coordinator.

gRPC's Python API never hears of a connection whose handshake fails; its C++ core writes a line to
standard error, with the reason and without the peer. `hear` reads these lines and logs them in our
words; whatever else is written to standard error passes through.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import structlog

from primia.wire.limits import Seldom

log = structlog.get_logger(__name__)
_told: list[Callable[[str], None]] = []

_CORE_LINE = re.compile(rb"^[IWEF]\d{4} [\d:.]+ +\d+ [\w./-]+:\d+\] ")
_FAILED = re.compile(
    rb"Handshake failed with error SSL_ERROR_SSL: error:[0-9a-f]+:[^:]*:[^:]*:(.*)"
)
REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no client certificate",
    "unable to get local issuer certificate": "a certificate of a foreign authority",
    "self-signed certificate": "a certificate of a foreign authority",
    "certificate has expired": "an expired certificate",
    "certificate is not yet valid": "a certificate that is not valid yet; compare the clocks",
    "WRONG_VERSION_NUMBER": "no TLS (a plaintext client?)",
    "HTTP_REQUEST": "no TLS (an HTTP request)",
}
"""The reason as OpenSSL names it, and as the log does."""


def hear() -> None:
    """Log failed handshakes from now on; call it once, before gRPC is imported.

    Does nothing where the operator has set GRPC_VERBOSITY (who debugs gRPC wants its own lines), or
    where standard error is not the process's own.
    """
    if os.environ.get("GRPC_VERBOSITY") != "NONE" or sys.stderr is not sys.__stderr__:
        return
    os.environ["GRPC_VERBOSITY"] = "INFO"
    real = os.fdopen(os.dup(2), "w", buffering=1)
    read_end, write_end = os.pipe()
    os.dup2(write_end, 2)
    os.close(write_end)
    sys.stderr = real  # our own lines, tracebacks too, take the short way
    threading.Thread(
        target=_read, args=(read_end, real.fileno()), daemon=True, name="handshakes"
    ).start()


def reason(line: bytes) -> str | None:
    """Why a handshake failed, if `line` of gRPC's core says so."""
    found = _FAILED.search(line)
    if found is None:
        return None
    text = found.group(1).decode("ascii", "replace").strip()
    return next((ours for theirs, ours in REASONS.items() if theirs in text), text[:100])


def tell(note: Callable[[str], None]) -> None:
    """Let `note` know the reason of each failed handshake from now on; it must not raise."""
    _told.append(note)


def _read(pipe: int, real: int) -> None:
    seldom = Seldom()
    with os.fdopen(pipe, "rb") as lines:
        for line in lines:
            if _CORE_LINE.match(line) is None:
                with suppress(OSError):  # closed: this thread has to empty the pipe all the same
                    os.write(real, line)
                continue
            why = reason(line)
            if why is not None:
                for note in _told:
                    note(why)
            if why is not None and (left_out := seldom.left_out()) is not None:
                with suppress(OSError, ValueError):  # likewise
                    log.warning("handshake_failed", reason=why, left_out=left_out)
