"""`primia simulate`: a whole study in one process, without sockets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from primia.cli.console import err, out, print_json

if TYPE_CHECKING:
    from primia.report.quality import SiteQuality
    from primia.report.record import StudyRecord


def simulate(
    plan: Annotated[
        Path | None, typer.Option(help="The plan, YAML; left out: the demonstration's.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Films to deal out by patient: an NPZ, a CSV of films or a folder."),
    ] = None,
    synthetic: Annotated[
        int | None, typer.Option(min=20, help="Draw films of so many patients for each site.")
    ] = None,
    do_nothing: Annotated[
        bool, typer.Option("--do-nothing", help="No training: measures the protocol alone.")
    ] = False,
    sites: Annotated[
        int | None, typer.Option(min=3, max=1000, help="In place of the plan's sites.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="In place of the plan's.")
    ] = None,
    drop: Annotated[
        float, typer.Option(min=0, max=0.9, help="A site's chance to fall silent in an attempt.")
    ] = 0.0,
    seed: Annotated[
        int, typer.Option(min=0, help="Of synthetic films and drop-outs; noise stays secret.")
    ] = 0,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="INSECURE: noise and masks from the seed, too."),
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, max=256, help="That train sites; default: one a core.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Write report.html and result.json here.")
    ] = None,
    quality: Annotated[
        bool,
        typer.Option(
            "--quality",
            help="Then each site measures the best model on its own films, by patient, against a "
            "model trained on its films alone; takes about as long again.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """A study from plan to report in this process: real masks, real noise, no network.

    For the lead who plans a study and for developers; no hospital takes part. Drop-outs may be
    drawn at random. The noise is as secret as a hospital's, unless --deterministic says otherwise.
    """
    import os
    import time

    from primia.simulate.run import Request, run
    from primia.simulate.study import Wishes, cores

    if deterministic:
        from primia.learning.insecure import SIMULATION_VARIABLE

        os.environ[SIMULATION_VARIABLE] = "1"  # for the processes that train, too
        err.print("[bold red]INSECURE:[/] noise and masks come from the seed; nothing is private")
    if quality and do_nothing:
        from primia.errors import ConfigError

        raise ConfigError("--quality needs films; leave --do-nothing or --quality out")
    measured: list[SiteQuality] = []
    began = time.monotonic()
    request = Request(
        plan=plan,
        data=data,
        patients=synthetic,
        sites=sites,
        rounds=rounds,
        do_nothing=do_nothing,
        processes=processes or cores(),
        wishes=Wishes(drop=drop, seed=seed, deterministic=deterministic, threads=cores()),
    )
    with _bar() as bar:
        shown = bar.add_task("preparing", total=None)
        record, settled = run(
            request,
            on_plan=lambda p: bar.update(shown, total=p.rounds + 1, description="rounds"),
            on_attempt=lambda a: bar.update(shown, advance=a.outcome == "committed"),
            on_quality=measured.extend if quality else None,
        )
    seconds = time.monotonic() - began
    if to is not None:
        from primia.outcome import write_report

        to.mkdir(parents=True, exist_ok=True)
        write_report(record, settled, to, quality=_for_others(measured))
    if json:
        print_json(_as_json(record, seconds, measured))
        return
    _show(record, settled, seconds, idle=do_nothing)
    if measured:
        from primia.report.quality_tables import sites_table

        out.print(sites_table(measured))
    if to is not None:
        out.print(f"report: [bold]{to / 'report.html'}[/]", soft_wrap=True)


def _bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=err, transient=True)


def _show(record: StudyRecord, plan: Any, seconds: float, *, idle: bool) -> None:
    from primia.outcome import epsilon_by_round
    from primia.report.terminal import rounds_table, summary

    private = record.planned_epsilon is not None
    out.print(rounds_table(record, epsilon_by_round=epsilon_by_round(plan) if private else {}))
    if not idle:
        out.print(summary(record))
    attempts = len(record.attempts)
    spent = sum((a.closed_at or a.opened_at) - a.opened_at for a in record.attempts)
    out.print(
        f"{len(record.committed)} rounds with {len(record.sites)} sites and "
        f"{record.parameters:,} weights: {attempts} attempts, {spent / attempts:.2f} s each, "
        f"{seconds:.1f} s in all"
    )


def _as_json(record: StudyRecord, seconds: float, measured: list[SiteQuality]) -> dict[str, Any]:
    from dataclasses import asdict

    found = {"quality": [asdict(q) for q in measured]} if measured else {}
    return {**asdict(record), **found, "seconds": round(seconds, 3)}


def _for_others(measured: list[SiteQuality]) -> list[SiteQuality]:
    """As the sites would hand them on; those with too few patients would not."""
    from primia.cli.console import note
    from primia.errors import PolicyRefused
    from primia.report.quality import shareable

    found = []
    for one in measured:
        try:
            found.append(shareable(one))
        except PolicyRefused as error:
            note(f"{one.site} is not in the report: {error}")
    return found
