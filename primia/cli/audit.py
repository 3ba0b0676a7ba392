"""`primia audit`: measures whether the privacy that is claimed can be refuted."""

from __future__ import annotations

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Measure the privacy that is claimed; a claim is refuted or not refuted, never proved.",
)


@app.callback()
def audit() -> None:
    """Measure the privacy that is claimed; a claim is refuted or not refuted, never proved."""
