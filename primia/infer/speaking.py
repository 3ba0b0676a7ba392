"""How the roles speak: daemons log, commands print."""

from __future__ import annotations

from primia.logs import configure, quiet


def as_daemon(*, json: bool) -> None:
    """Log to standard error. Call it before anything that loads gRPC."""
    from primia.wire import handshakes

    handshakes.hear()
    configure(json=json)


def counted(count: int, noun: str) -> str:
    """`1 film`, `2 films`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def as_command() -> None:
    """Log nothing: what matters is printed, and a log would be one more place to look after."""
    quiet()
