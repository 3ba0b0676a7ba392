"""`primia-worker quality`: how good a study's model is on this hospital's own films."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from primia.cli.console import Json, err, note, out, print_json
from worker.options import HERE, SITE, Config, State
from worker.plan_commands import Name, Role

app = typer.Typer(
    no_args_is_help=True,
    help="How good a study's model is on this hospital's own validation films. Nothing leaves "
    "unless a person shares it.",
)


class AloneOption(StrEnum):
    """As `primia.site_quality.Alone`."""

    NONE = "none"
    PLAIN = "plain"
    BOTH = "both"


@app.command()
def measure(
    export: Annotated[
        Path, typer.Argument(help="The folder that the lead made: primia-coordinator export.")
    ],
    config: Config = SITE,
    state: State = HERE,
    model: Annotated[
        Path | None, typer.Option(help="Judge this exported model; default: the best one.")
    ] = None,
    alone: Annotated[
        AloneOption,
        typer.Option(
            help="Hold the model against models of this hospital alone: without noise (plain), "
            "with the plan's noise, too (both), or none. Each trains as long as the study did here."
        ),
    ] = AloneOption.BOTH,
    replicates: Annotated[
        int, typer.Option(min=1000, max=100_000, help="Draws of patients for the intervals.")
    ] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of these draws.")] = 1,
    json: Json = False,
) -> None:
    """Measure a model here and keep the figures in the worker's folder, quality.json."""
    from worker.quality import Wishes
    from worker.quality import measure as measured

    wishes = Wishes(export, model, alone.value, replicates, seed)
    with _bar() as bar:
        shown = bar.add_task("films", total=None)

        def on_round(done: int, of: int) -> None:
            bar.update(shown, completed=done, total=of, description="training here alone")

        found = measured(state, config, wishes, on_round)
    _show(found, json=json)
    if not json:
        note(f"kept in {state / 'quality.json'}; it has exact counts and stays in this hospital")


@app.command()
def show(state: State = HERE, json: Json = False) -> None:
    """What was measured last."""
    from worker.quality import measured

    _show(measured(state), json=json)


@app.command()
def share(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The file to hand on.")],
    state: State = HERE,
    name: Name = "",
    role: Role = "",
    json: Json = False,
) -> None:
    """Write what may be handed on: rounded, without counts of few patients. Goes on the audit log.

    The figures are exact functions of the films that were tested, not differentially private.
    """
    from worker.plan_commands import answerable
    from worker.quality import share as write

    found = write(state, target, answerable(name, role, "sharing"))
    _show(found, json=json)
    if not json:
        note(
            f"written to {target}: figures of two or three digits; a rate over few films may "
            "still tell how many of them were missed"
        )


def _show(found: Any, *, json: bool) -> None:
    import json as json_

    from primia.report.quality import to_json
    from primia.report.quality_tables import tables

    if json:
        print_json(json_.loads(to_json(found)))
        return
    for table in tables(found):
        out.print(table)


def _bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=err, transient=True)
