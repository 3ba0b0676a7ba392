"""What all three commands share: one console, one way to end in an error, JSON on request."""

from __future__ import annotations

import json
import sys
import traceback
from typing import Annotated, Any

import typer
from rich.console import Console

from primia.errors import ConfigError, PrimiaError

out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)

REFUSED = 1  # refused or failed, with the reason
WRONG_USE = 2  # a flag or file the user can mend
BUG = 3

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def run(app: typer.Typer) -> None:
    """Run a command line; a `PrimiaError` becomes one line and an exit code, never a traceback.

    Exit codes: 0 done, 1 refused or failed with a reason, 2 wrong use (flags, configuration),
    3 a bug, whose traceback is printed. A service manager restarts after a bug, not after 1 or 2.
    """
    try:
        app()
    except PrimiaError as error:
        for line in str(error).splitlines():
            err.print(f"[bold red]error:[/] {_plain(line)}", soft_wrap=True)
        sys.exit(WRONG_USE if isinstance(error, ConfigError) else REFUSED)
    except Exception:
        traceback.print_exc()
        sys.exit(BUG)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(130)


def version_option(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Callback of a command line without options of its own."""
    if version:
        from primia import __version__

        typer.echo(__version__)
        raise typer.Exit


def print_json(data: Any) -> None:
    """One JSON document on standard output, for scripts."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")


def note(text: str) -> None:
    """What a person should read beside the result; scripts read standard output."""
    err.print(f"[yellow]note:[/] {_plain(text)}", soft_wrap=True)


def _plain(text: str) -> str:
    """Text as it is: no markup from a message that quotes a file, no control characters."""
    from rich.markup import escape

    return escape("".join(c if c.isprintable() else "?" for c in text))
