"""One attack on membership from films to finding: the control, the plan, the plan without noise."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from primia.audit.membership import (
    Attack,
    Exported,
    Pool,
    Recipe,
    as_planned,
    control_pool,
    groups,
    memorising,
    without_privacy,
)
from primia.audit.membership_finding import Case, Claim, finding
from primia.config.plan import StudyPlan
from primia.errors import DataError
from primia.findings import Finding
from primia.imaging.dataset import Cohort, Films
from primia.imaging.split import patient_split
from primia.learning.models import FloatVector
from primia.learning.terms import is_distributed, study_mechanism
from primia.privacy import epsilon
from primia.settle import settled_digest

LEAST_PATIENTS = 20
STRANGERS = 0.2  # of the patients: nothing is trained on them
_STRANGERS_KEY = b"primia membership strangers"


_SHARED_NOISE = (
    " The plan's sites share the noise; here the one site adds all of it, as the sum of a round "
    "holds it."
)


def attack_plan(plan: StudyPlan, cohort: Cohort, attack: Attack, *, local: bool) -> Finding:
    """Attack models trained here as `plan` says, on half of the training patients each.

    local: the films are a hospital's own. Raises DataError for too few patients, ConfigError for
    a budget that is too short.
    """
    pool = Pool(cohort.train, cohort.validation)
    _need(pool.films)
    planned = as_planned(plan, pool.films.patient_count // 2)
    recipes = [_control(planned, pool, attack.seed)]
    if plan.privacy != "none":
        recipes.append((without_privacy(planned), pool))
    return _found(plan, [*recipes, (planned, pool)], attack, None, local=local)


def attack_export(
    plan: StudyPlan, cohort: Cohort, attack: Attack, weights: FloatVector, *, local: bool
) -> Finding:
    """Attack a model of the study, whose members are this site's training patients.

    Others are its validation patients: a keyed hash of the patient's id alone tells the two apart,
    so but for the training they are alike. References train on halves of both.
    Raises as `attack_plan`.
    """
    pool = Pool(_joined(cohort.train, cohort.validation), cohort.validation)
    _need(pool.films)
    planned = as_planned(plan, pool.films.patient_count // 2)
    members = np.arange(pool.films.patient_count) < cohort.train.patient_count
    recipes = [_control(planned, pool, attack.seed), (planned, pool)]
    return _found(plan, recipes, attack, Exported(weights, members), local=local)


def with_strangers(films: Films) -> Cohort:
    """Films that no study has divided, a fifth of the patients kept apart."""
    apart = patient_split(films.patients, STRANGERS, _STRANGERS_KEY)
    return Cohort(films.select(~apart), films.select(apart), 0, ())


def _control(planned: Recipe, pool: Pool, seed: int) -> tuple[Recipe, Pool]:
    few = control_pool(pool, seed)
    return memorising(planned, few.films.patient_count // 2), few


def _found(
    plan: StudyPlan,
    recipes: list[tuple[Recipe, Pool]],
    attack: Attack,
    exported: Exported | None,
    *,
    local: bool,
) -> Finding:
    began, made_at = time.monotonic(), time.time()
    control, *compared, attacked = attack.on(recipes, exported)
    case = Case(
        attacked=attacked,
        control=control,
        compared=tuple(compared),
        claim=_claim(plan),
        groups=tuple(groups(recipes[-1][1].films, plan.model.classes)),
        method=attack.method,
        local=local,
    )
    found = finding(case, seconds=time.monotonic() - began, made_at=made_at)
    limits = found.limits + (_SHARED_NOISE if is_distributed(plan) else "")
    return replace(found, limits=limits, plan=settled_digest(plan))


def _claim(plan: StudyPlan) -> Claim | None:
    mechanism = study_mechanism(plan)
    if plan.privacy == "none" or mechanism is None:
        return None
    return Claim(epsilon([mechanism], plan.privacy.delta), plan.privacy.delta)


def _joined(first: Films, second: Films) -> Films:
    return Films(
        np.concatenate([first.pixels, second.pixels]),
        np.concatenate([first.labels, second.labels]),
        np.concatenate([first.patients, second.patients + first.patient_count]),
    )


def _need(films: Films) -> None:
    if films.patient_count < LEAST_PATIENTS:
        raise DataError(
            f"fewer than {LEAST_PATIENTS} patients: too few to tell members from others; add films "
            "of more patients"
        )
