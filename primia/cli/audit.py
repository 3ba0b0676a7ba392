"""`primia audit`: measures whether the privacy that is claimed can be refuted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from primia.cli.console import err
from primia.cli.findings import Out, show

if TYPE_CHECKING:
    from primia.audit.mechanism import OnStep
    from primia.config.plan import StudyPlan
    from primia.findings import Finding

app = typer.Typer(
    no_args_is_help=True,
    help="Measure the privacy that is claimed; a claim is refuted or not refuted, never proved.",
)
Json = Annotated[bool, typer.Option("--json", help="The finding as JSON.")]
Plan = Annotated[Path | None, typer.Option(help="The study plan, YAML; left out, a stand-in.")]
Canaries = Annotated[int, typer.Option(help="Made-up patients, in or out by a coin.")]
Z = Annotated[
    float,
    typer.Option(help="Deviations of a one-sided bound: 3.09 is wrong once in a thousand."),
]


@app.callback()
def audit() -> None:
    """Measure the privacy that is claimed; a claim is refuted or not refuted, never proved."""


@app.command()
def mechanism(
    plan: Plan = None,
    canaries: Canaries = 5000,
    z: Z = 3.09,
    out: Out = None,
    json: Json = False,
) -> None:
    """Send made-up patients through clipping, noise, encoding, masks and decoding.

    Bounds ε from below by what is seen of them, and tries each condition that the price rests on.
    No film is read. Ends with 1 when the claim is refuted.
    """
    from primia.audit.mechanism import audit_mechanism

    with _progress("canaries", hidden=json) as on_step:
        found = audit_mechanism(_terms(plan), canaries=canaries, z=z, on_step=on_step)
    _end(found, out, json=json)


@app.command()
def study(
    plan: Plan = None,
    canaries: Canaries = 5000,
    z: Z = 3.09,
    out: Out = None,
    json: Json = False,
) -> None:
    """Rehearse the whole study with made-up patients alone, and score what adds up over rounds.

    In this process, with the plan's rounds, steps and noise; it takes as long as that training.
    Ends with 1 when the plan's ε is refuted.
    """
    from primia.audit.study import audit_study

    with _progress("rounds", hidden=json) as on_step:
        found = audit_study(_terms(plan), canaries=canaries, z=z, on_step=on_step)
    _end(found, out, json=json)


@app.command()
def ledger(
    place: Annotated[
        Path, typer.Argument(metavar="LEDGER", help="ledger.db, or the worker's folder.")
    ],
    statement: Annotated[
        Path | None, typer.Option(help="Audit the figure of this statement.json instead.")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="Left out, the one charged at.")] = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Price again, with other accountants, what a hospital's ledger has logged.

    Reads and changes nothing. Ends with 1 when less is claimed than was spent.
    """
    from primia.audit.ledger import audit_ledger

    _end(audit_ledger(place, delta=delta, statement=statement), out, json=json)


def _terms(plan: Path | None) -> StudyPlan:
    from primia.audit.mechanism import STAND_IN
    from primia.config.plan import load_plan

    return STAND_IN if plan is None else load_plan(plan)


def _end(found: Finding, out: Path | None, *, json: bool) -> None:
    show(found, out, json=json)
    if found.verdict.value == "refuted":
        raise typer.Exit(1)


@contextmanager
def _progress(what: str, *, hidden: bool) -> Iterator[OnStep]:
    """A bar on stderr while the work goes on; torch stays on one thread."""
    from rich.progress import Progress

    from primia.learning.parallel import use_threads

    use_threads(1)
    with Progress(console=err, transient=True, disable=hidden) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
