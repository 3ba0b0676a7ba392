"""Options that several commands of the worker share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

State = Annotated[
    Path,
    typer.Option(
        "--state",
        help="The worker's folder.",
        envvar="PRIMIA_STATE",
        readable=False,  # one that is not is refused in our own words
    ),
]
HERE = Path("worker-state")
Config = Annotated[Path, typer.Option("--config", help="The site file, YAML.")]
SITE = Path("site.yaml")
