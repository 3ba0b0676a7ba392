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
    from primia.config.site import DataSource
    from primia.imaging import Cohort

SYNTHETIC_PATIENTS, SYNTHETIC_SIZE = 400, 28


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
    from primia.cli.findings import show
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
            weights = _weights(model, plan)
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
    from primia.config import load_plan
    from primia.errors import ConfigError

    if model is not None and (plan_file is None or data is None or key is None):
        raise ConfigError(
            "--model needs --plan, --data SITE (the site file) and --key (the worker's split.key): "
            "with another split members and others are mixed, and any model looks safe"
        )
    if model is None and key is not None:
        raise ConfigError("--key belongs to --model; leave it out")
    plan = None if plan_file is None else load_plan(plan_file)
    return _synthetic(plan, patients, seed) if data is None else _own(plan, data, key)


def _synthetic(plan: StudyPlan | None, patients: int, seed: int) -> tuple[StudyPlan, Cohort]:
    from primia.audit.membership_run import synthetic_cohort
    from primia.errors import ConfigError
    from primia.imaging.synth import CLASSES, synthesise

    plan = plan or _demonstration(CLASSES, SYNTHETIC_SIZE, patients)
    classes, size = plan.model.classes, plan.model.input_size
    try:
        films = synthesise(patients, size=size, seed=seed, classes=classes)
    except ValueError as error:
        raise ConfigError(
            f"{error}; synthetic films are normal, bacterial or viral: name the plan's classes so, "
            "or give --data"
        ) from error
    return plan, synthetic_cohort(films)


def _own(plan: StudyPlan | None, data: Path, key: Path | None) -> tuple[StudyPlan, Cohort]:
    from primia.config import load_site
    from primia.identity import keyfile
    from primia.imaging import load_cohort
    from primia.imaging.division import classes_of, source_of
    from primia.imaging.split import VALIDATION_KEY

    is_site_file = data.suffix.lower() in {".yaml", ".yml"}
    source: DataSource = load_site(data).data if is_site_file else source_of(data)
    classes = plan.model.classes if plan else classes_of(source)
    size = plan.model.input_size if plan else SYNTHETIC_SIZE
    cohort = load_cohort(
        source,
        classes=classes,
        input_size=size,
        min_patients=2,
        split_key=VALIDATION_KEY if key is None else keyfile.load(key),
    )
    return plan or _demonstration(classes, size, cohort.train.patient_count), cohort


def _demonstration(classes: tuple[str, ...], size: int, patients: int) -> StudyPlan:
    from primia.config.plan import StudyPlan
    from primia.config.strict import validate
    from primia.demo.plans import SYNTHETIC, plan

    raw = plan(
        sites=["site-1", "site-2", "site-3"],
        classes=classes,
        input_size=size,
        patients_per_site=patients,
        rounds=None,
        recipe=SYNTHETIC,
    )
    return validate(StudyPlan, raw, where="the demonstration's plan")


def _weights(path: Path, plan: StudyPlan) -> Any:
    from primia.errors import ConfigError
    from primia.inference.trained import read_export
    from primia.learning.models import flatten

    network, terms = read_export(path)
    if terms != plan.model:
        raise ConfigError(f"{path}: is another network than the plan's; give the plan of its study")
    return flatten(network)


def _bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=err, transient=True)
