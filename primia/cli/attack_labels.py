"""`primia attack labels`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from primia.cli.console import Json, err
from primia.cli.findings import Out, show

Plan = Annotated[Path | None, typer.Option(help="The plan, YAML; else the demonstration's.")]
Data = Annotated[
    Path | None, typer.Option(help="Your own films: an NPZ, a CSV or a folder; else synthetic.")
]
Model = Annotated[
    Path | None, typer.Option(help="Weights of an export; else those a study begins with.")
]
Size = Annotated[int | None, typer.Option(min=28, max=512, help="Pixels, in place of the plan's.")]
Seed = Annotated[int, typer.Option(min=0, help="Of films and trials; noise stays secret.")]


def labels(
    plan: Plan = None,
    data: Data = None,
    model: Model = None,
    size: Size = None,
    seed: Seed = 0,
    trials: Annotated[int, typer.Option(min=10, max=10_000, help="Steps of each size.")] = 60,
    to: Out = None,
    json: Json = False,
) -> None:
    """How many films of each class a step had, read off the last layer's bias.

    Steps of 1, 4 and 16 films, released plain, clipped, and with the plan's noise, beside a guess.
    """
    from primia.audit.films import case_of
    from primia.audit.labels import attack_labels
    from primia.audit.networks import network_of
    from primia.learning.parallel import use_threads

    use_threads(1)
    case = case_of(plan, data, size, seed)
    with err.status("drawing steps") as status:
        finding = attack_labels(
            case, network_of(case.plan, model), seed=seed, trials=trials, on_step=status.update
        )
    show(finding, to, json=json)
