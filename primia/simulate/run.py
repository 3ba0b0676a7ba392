"""From what the command line asked for to a simulated study and its report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from primia.config.plan import StudyPlan, load_plan
from primia.config.strict import validate
from primia.demo.films import (
    SYNTHETIC_PATIENTS,
    SYNTHETIC_SIZE,
    HospitalFilms,
    divided_films,
    synthetic_films,
)
from primia.demo.plans import GIVEN, SYNTHETIC
from primia.demo.plans import plan as demo_plan
from primia.errors import ConfigError
from primia.federation.contribution import Contribution
from primia.report.quality import SiteQuality
from primia.report.record import Attempt, StudyRecord
from primia.settle import settle
from primia.simulate.crew import Crew, Idle, Pool
from primia.simulate.study import Simulation, Wishes, cores
from primia.study import contribution, first_weights
from primia.types import SiteId

IDLE_PARAMETERS = 250_000  # weights of a model of 1 MB, where there is no plan to say otherwise


@dataclass(frozen=True)
class Request:
    """What the command line asked for.

    patients: synthetic ones of each site; None takes `data`. sites, rounds: in place of the
    plan's. do_nothing: no films and no training.
    """

    plan: Path | None = None
    data: Path | None = None
    patients: int | None = None
    sites: int | None = None
    rounds: int | None = None
    do_nothing: bool = False
    processes: int = field(default_factory=cores)
    wishes: Wishes = field(default_factory=Wishes)


def run(
    request: Request,
    *,
    on_plan: Callable[[StudyPlan], None] = lambda _plan: None,
    on_attempt: Callable[[Attempt], None] = lambda _attempt: None,
    on_quality: Callable[[list[SiteQuality]], None] | None = None,
) -> tuple[StudyRecord, StudyPlan]:
    """Simulate a study; returns its record and the settled plan.

    on_quality: hears at the end what each site measured of the best model; None: nobody measures.

    Raises ConfigError for wishes that contradict each other or the plan, DataError for films.
    """
    with tempfile.TemporaryDirectory(prefix="primia-simulate-") as folder:
        plan, films = _plan_and_films(request, Path(folder))
        plan = settle(plan)
        start, fixed = _model(plan, idle=request.do_nothing and request.plan is None)
        on_plan(plan)
        crew = _crew(request, plan, fixed, films)
        try:
            study = Simulation(plan, fixed, start, crew, request.wishes)
            record = study.run(on_attempt)
            if on_quality is not None and isinstance(crew, Pool) and study.best_weights is not None:
                on_quality(crew.judge(study.best_weights))
            return record, plan
        finally:
            crew.close()


def _plan_and_films(request: Request, folder: Path) -> tuple[StudyPlan, HospitalFilms | None]:
    if request.data is not None and request.patients is not None:
        raise ConfigError("give --data or --synthetic, not both")
    if request.do_nothing and (request.data is not None or request.patients is not None):
        raise ConfigError("--do-nothing takes no films; leave --data and --synthetic out")
    if request.plan is not None:
        plan = _changed(load_plan(request.plan), request)
        return plan, None if request.do_nothing else _films(request, folder, plan)
    names = _names(request.sites or 3)
    if request.do_nothing:
        raw = demo_plan(
            sites=names, classes=("a", "b"), input_size=28, patients_per_site=100,
            rounds=request.rounds or 10, recipe=SYNTHETIC,
        )  # fmt: skip
        return _valid({**raw, "study": "do-nothing", "privacy": "none"}), None
    films = _draw(request, folder, names, classes=None, size=None)
    raw = demo_plan(
        sites=names,
        classes=films.classes,
        input_size=films.size,
        patients_per_site=films.patients_per_site,
        rounds=request.rounds,
        recipe=SYNTHETIC if request.data is None else GIVEN,
    )
    return _valid({**raw, "study": "simulation"}), films


def _names(count: int) -> list[str]:
    return [f"site-{i:02d}" for i in range(1, count + 1)]


def _valid(raw: dict[str, Any]) -> StudyPlan:
    return validate(StudyPlan, raw, where="simulate")


def _changed(plan: StudyPlan, request: Request) -> StudyPlan:
    """The plan with what the command line puts in place of its own."""
    raw = plan.model_dump(mode="json")
    if request.sites is not None:
        raw["sites"] = _names(request.sites)
    if request.rounds is not None:
        raw["rounds"] = request.rounds
    return validate(StudyPlan, raw, where=f"{request.plan} with --sites and --rounds")


def _films(request: Request, folder: Path, plan: StudyPlan) -> HospitalFilms:
    if request.data is None and request.patients is None:
        raise ConfigError("say what to train on: --data FILE, --synthetic N, or --do-nothing")
    model = plan.model
    return _draw(request, folder, list(plan.sites), classes=model.classes, size=model.input_size)


def _draw(
    request: Request,
    folder: Path,
    names: list[str],
    *,
    classes: tuple[str, ...] | None,
    size: int | None,
) -> HospitalFilms:
    if request.data is not None:
        return divided_films(folder, names, request.data, classes=classes, size=size)
    try:
        return synthetic_films(
            folder,
            names,
            patients=request.patients or SYNTHETIC_PATIENTS,
            size=size or SYNTHETIC_SIZE,
            classes=classes,
            seed=request.wishes.seed,
        )
    except ValueError as err:
        raise ConfigError(
            f"{err}; synthetic films are normal, bacterial or viral: name the plan's classes so, "
            "or give --data"
        ) from err


def _model(plan: StudyPlan, *, idle: bool) -> tuple[np.ndarray[Any, Any], Contribution]:
    """Model 0 and the layout. Without a plan of one's own nothing is built, so no torch loads."""
    if idle:
        return np.zeros(IDLE_PARAMETERS, np.float32), contribution(plan, IDLE_PARAMETERS)
    weights = first_weights(plan)
    return weights, contribution(plan, weights.size)


def _crew(
    request: Request, plan: StudyPlan, fixed: Contribution, films: HospitalFilms | None
) -> Crew:
    if films is None:
        return Idle(fixed)
    paths = {SiteId(s): p for s, p in zip(plan.sites, films.paths, strict=True)}
    return Pool(plan, fixed, paths, max(1, min(request.processes, len(plan.sites))))
