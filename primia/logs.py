"""Structured logs for the daemons: event names and plain fields, console or JSON lines.

No patient id, path below the data root, tensor or token is ever a field; there is nothing here
that could take it out again.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog


def _escape(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """What a peer put into a reason may not move the cursor, forge a line or turn the text."""
    for name, value in event.items():
        if isinstance(value, str):
            kept = "\n\t" if name == "exception" else ""
            event[name] = "".join(
                c if c.isprintable() or c in kept else c.encode("unicode_escape").decode()
                for c in value
            )
    return event


def configure(*, json: bool, verbose: bool = False) -> None:
    """Log to standard error, as JSON lines for machines or as text for people."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if json
        # The default renderer of tracebacks prints local variables: keys, tensors, films.
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *([] if json else [_escape]),  # JSON escapes by itself
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if verbose else logging.INFO
        ),
        # Looked up at each line: whoever redirects standard error gets the lines, too.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


def quiet() -> None:
    """Log nothing, for a command that prints what it finds."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
