"""`primia attack labels`."""

from __future__ import annotations

from typing import Annotated

import typer

from primia.cli.attack_options import Data, Model, Plan, Seed, Size
from primia.cli.console import Json, err
from primia.cli.findings import Out, show


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
    # From the first moment on: drawing films takes longer than the attack.
    with err.status("reading films" if data else "drawing films") as status:
        from primia.audit.films import case_of
        from primia.audit.labels import attack_labels
        from primia.audit.networks import network_of
        from primia.learning.parallel import use_threads

        use_threads(1)
        case = case_of(plan, data, size, seed)
        finding = attack_labels(
            case, network_of(case.plan, model), seed=seed, trials=trials, on_step=status.update
        )
    show(finding, to, json=json)
