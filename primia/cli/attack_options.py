"""What the attacks share on the command line: which plan, whose films, which weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Plan = Annotated[Path | None, typer.Option(help="The plan, YAML; else the demonstration's.")]
Data = Annotated[
    Path | None, typer.Option(help="Your own films: an NPZ, a CSV or a folder; else synthetic.")
]
Size = Annotated[int | None, typer.Option(min=28, max=512, help="Pixels, in place of the plan's.")]
Seed = Annotated[int, typer.Option(min=0, help="Of films and search; noise stays secret.")]
Model = Annotated[
    Path | None, typer.Option(help="Weights of an export; else a network like the study's first.")
]
