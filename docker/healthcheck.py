"""Is this container well? `listening PORT` for the coordinator, `connected` for a worker.

Asks the kernel and nobody else: no key, no import of primia, some milliseconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

ESTABLISHED, LISTEN = "01", "0A"  # states in /proc/net/tcp (Linux, include/net/tcp_states.h)


def sockets() -> list[tuple[int, str]]:
    """(local port, state) of every TCP socket in this container."""
    found = []
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if table.exists():  # no tcp6 where IPv6 is off
            for line in table.read_text().splitlines()[1:]:
                columns = line.split()
                found.append((int(columns[1].rsplit(":", 1)[1], 16), columns[3]))
    return found


def main(arguments: list[str]) -> int:
    """Exit code: 0 well, 1 not well, 2 wrong use."""
    match arguments:
        case ["listening", port]:
            return 0 if (int(port), LISTEN) in sockets() else 1
        case ["connected"]:
            # A worker's only connections are to its coordinator; keepalive ends dead ones.
            return 0 if any(state == ESTABLISHED for _, state in sockets()) else 1
    print("usage: healthcheck.py listening PORT | connected", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
