"""`primia attack membership`: does a model tell who was trained on?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from primia.cli.console import Json, err
from primia.cli.findings import Out

if TYPE_CHECKING:
    from primia.config import StudyPlan
    from primia.imaging import Cohort

SYNTHETIC_PATIENTS = 400


class Method(StrEnum):
    """How the evidence for a patient is weighed."""

    LIRA = "lira"
    RMIA = "rmia"


def membership(
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="The plan; left out: the demonstration's.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A site file, or films: NPZ, CSV, folder. Left out: synthetic films."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A model that the study exported, in place of new ones.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="With --model: the worker's split.key, which says who was trained on."),
    ] = None,
    method: Annotated[Method, typer.Option(help="lira, or rmia for few references.")] = Method.LIRA,
    references: Annotated[
        int | None, typer.Option(min=2, max=256, help="Even; default 16 for lira, 4 for rmia.")
    ] = None,
    targets: Annotated[
        int | None, typer.Option(min=1, max=64, help="Models attacked; default: by the budget.")
    ] = None,
    patients: Annotated[
        int, typer.Option(min=25, max=100_000, help="Synthetic ones, without --data.")
    ] = SYNTHETIC_PATIENTS,
    budget: Annotated[float, typer.Option(min=1, help="Seconds that it may take.")] = 600.0,
    seed: Annotated[
        int, typer.Option(min=0, help="Of synthetic films and of who is in which model.")
    ] = 0,
    to: Out = None,
    json: Json = False,
) -> None:
    """Find out from a trained model who was trained on, patient by patient.

    Models are trained here as the plan says, with known members, and beside them without privacy
    and as bad as can be, so that a finding of "no better than chance" can be believed. On films of
    your own the finding is about your patients: it stays here unless you hand it on.
    """
    from primia.audit.membership import Attack
    from primia.audit.membership_run import attack_export, attack_plan
    from primia.audit.networks import network_of
    from primia.cli.findings import show
    from primia.learning.models import flatten
    from primia.learning.parallel import use_threads

    use_threads(1)
    plan, cohort = _plan_and_films(plan_file, data, key, model, patients, seed)
    with _bar() as bar:
        shown = bar.add_task("training", total=None)
        attack = Attack(
            method=method.value,
            references=references or 0,
            targets=targets,
            budget=budget,
            seed=seed,
            on_training=lambda done, of: bar.update(shown, completed=done, total=of),
        )
        if model is None:
            found = attack_plan(plan, cohort, attack, local=data is not None)
        else:
            weights = flatten(network_of(plan, model))
            found = attack_export(plan, cohort, attack, weights, local=True)
    show(found, to, json=json)


def _plan_and_films(
    plan_file: Path | None,
    data: Path | None,
    key: Path | None,
    model: Path | None,
    patients: int,
    seed: int,
) -> tuple[StudyPlan, Cohort]:
    from primia.audit.films import case_of
    from primia.audit.membership_run import with_strangers
    from primia.config import load_plan
    from primia.errors import ConfigError

    is_site_file = data is not None and data.suffix.lower() in {".yaml", ".yml"}
    if model is not None and (plan_file is None or not is_site_file or key is None):
        raise ConfigError(
            "--model needs --plan, --data SITE.yaml (the site file) and --key (the worker's "
            "split.key): by another split members and others are mixed, and any model looks safe"
        )
    if model is None and key is not None:
        raise ConfigError("--key belongs to --model; leave it out")
    if data is not None and is_site_file:
        if plan_file is None:
            raise ConfigError("--data with a site file needs --plan; name the study's plan")
        return _of_site(load_plan(plan_file), data, key)
    case = case_of(plan_file, data, None, seed, patients=patients)
    return case.plan, with_strangers(case.films)


def _of_site(plan: StudyPlan, site_file: Path, key: Path | None) -> tuple[StudyPlan, Cohort]:
    from primia.config import load_site
    from primia.identity import keyfile
    from primia.imaging import load_cohort
    from primia.imaging.split import VALIDATION_KEY

    cohort = load_cohort(
        load_site(site_file).data,
        classes=plan.model.classes,
        input_size=plan.model.input_size,
        min_patients=2,
        split_key=VALIDATION_KEY if key is None else keyfile.load(key),
    )
    return plan, cohort


def _bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=err, transient=True)
