"""Options that several commands of the coordinator share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

State = Annotated[
    Path,
    typer.Option(
        "--state",
        help="The coordinator's folder.",
        envvar="PRIMIA_STATE",
        readable=False,  # one that is not is refused in our own words
    ),
]
HERE = Path("coordinator-state")
