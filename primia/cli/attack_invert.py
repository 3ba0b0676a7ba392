"""`primia attack invert`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import typer

from primia.cli.attack_options import Data, Model, Plan, Seed, Size
from primia.cli.console import Json, err
from primia.cli.findings import Out, show


class Method(StrEnum):
    """Which attack."""

    COSINE = "cosine"
    DLG = "dlg"


def invert(
    plan: Plan = None,
    data: Data = None,
    model: Model = None,
    size: Size = None,
    method: Annotated[
        Method, typer.Option(help="Inverting Gradients, or DLG on a small sigmoid network.")
    ] = Method.COSINE,
    films: Annotated[
        int | None,
        typer.Option(min=2, max=64, help="To attack, one by one; else 4, from 33 px on 2."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Of search for each.")
    ] = None,
    budget: Annotated[float, typer.Option(min=1, help="Seconds for everything.")] = 110.0,
    summed: Annotated[
        int | None, typer.Option(min=3, max=8, help="Films in the masked sum; else the sites'.")
    ] = None,
    seed: Seed = 0,
    to: Out = None,
    json: Json = False,
) -> None:
    """Try to rebuild films from the update that holds them, protected more and more.

    Plain, clipped, with the plan's noise, in a masked sum, and from one masked upload: on the
    study's network, and on one that is easy to invert. Pictures of your own films stay here.
    """
    from primia.audit.films import case_of
    from primia.audit.invert import MOST_SUMMED, STEPS, Wishes
    from primia.audit.invert_finding import attack_invert
    from primia.audit.networks import network_of
    from primia.learning.parallel import use_threads

    use_threads(1)
    case = case_of(plan, data, size, seed)
    how: Literal["direction", "value"] = "value" if method is Method.DLG else "direction"
    wishes = Wishes(
        films=films or (4 if case.films.size <= 32 else 2),
        steps=steps or STEPS[how],
        seconds=budget,
        summed=summed or min(MOST_SUMMED, len(case.plan.sites)),
        seed=seed,
        method=how,
    )
    with _bar() as bar:
        shown = bar.add_task("preparing", total=1.0)
        own = None if model is None else network_of(case.plan, model)
        finding = attack_invert(
            case,
            own,
            wishes,
            on_part=lambda what, share: bar.update(shown, description=what, completed=share),
        )
    show(finding, to, json=json)


def _bar() -> Any:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    return Progress(*columns, TimeElapsedColumn(), console=err, transient=True)
