"""A study in one process: the product's own plan, sampling, clipping, noise, encoding, decoding and
server step, with an aggregator that is **not secure**: it adds the encoded vectors as they are,
without masks. The masked sum is the same integers, so the model is the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from primia.config.plan import StudyPlan
from primia.config.site import DataSource
from primia.federation.optimiser import ServerState, step
from primia.imaging.archives import read_npz
from primia.imaging.dataset import Films
from primia.imaging.split import divide, patient_split
from primia.learning.evaluate import evaluate
from primia.learning.federated import clipped_sum
from primia.learning.local import train_locally
from primia.learning.metrics import Metrics
from primia.learning.models import build_for, flatten
from primia.learning.terms import LocalTerms, is_distributed
from primia.privacy.discrete_gaussian import discrete_gaussian
from primia.settle import settle
from primia.study import contribution, metric_layout, optimiser

CLASSES = ("normal", "pneumonia")
DELTA = 1e-4
RATE = 0.1


@dataclass(frozen=True)
class Data:
    """No patient stands in two of the parts."""

    sites: tuple[Films, ...]
    validation: Films  # the settings of each mode are chosen on it
    test: Films  # the figures are from it


@dataclass(frozen=True)
class Setting:
    """One way to spend the budget: so many steps in all, and their length."""

    steps: int
    learning_rate: float


def load(root: Path, sites: int) -> Data:
    """PneumoniaMNIST by patient: a fifth to test on, a tenth to choose on, the rest for the sites.

    root: the data folder, which holds `pneumoniamnist`.
    """
    folder = root / "pneumoniamnist"
    source = DataSource(
        kind="npz",
        path=folder / "pneumoniamnist_train_val.npz",
        patients=folder / "patients_train_val.csv",
    )
    pool = read_npz(source, CLASSES, None)
    ids = pool.patient_ids
    test = patient_split(ids, 0.2, b"test films")
    validation = ~test & patient_split(ids, 0.125, b"validation films")
    films, train = pool.films(), ~(test | validation)
    place = np.full(len(ids), -1)
    place[train] = divide(ids[train], sites)
    return Data(
        tuple(films.select(place == i) for i in range(sites)),
        films.select(validation),
        films.select(test),
    )


def make_plan(
    mode: str, sites: int, epsilon: float | None, setting: Setting, per_site: int
) -> StudyPlan:
    """The plan of one run. mode: none, site or distributed."""
    shared = mode == "distributed"
    local_steps = 1 if shared else min(10, setting.steps)
    data: dict[str, Any] = {
        "study": "noise",
        "model": {"name": "small-cnn", "input_size": 28, "classes": CLASSES},
        "sites": [f"site-{i}" for i in range(sites)],
        "rounds": setting.steps // local_steps,
        "schedule": {"quorum": sites},
        "training": {
            "patient_sampling_rate": RATE,
            "local_steps": local_steps,
            "expected_patients": round(RATE * per_site),
            "max_films_per_patient": 2,
            "learning_rate": setting.learning_rate,
            "momentum": 0.0 if shared else 0.9,
        },
        "privacy": "none"
        if mode == "none"
        else {"delta": DELTA, "target_epsilon": epsilon, "noise": mode},
        "server": {"momentum": 0.9 if shared else 0.0},
    }
    return settle(StudyPlan.model_validate_json(json.dumps(data)))


def run(plan: StudyPlan, data: Data) -> dict[str, float]:
    """Train all rounds; AUC of the last model on both held-out parts."""
    terms, server = LocalTerms.of(plan), optimiser(plan)
    state = ServerState.start(flatten(build_for(plan.model, seed=1)), server)
    encoding = contribution(plan, state.weights.size)
    no_counts = np.zeros(encoding.metrics, np.int64)
    for _ in range(plan.rounds):
        total = np.zeros(encoding.layout.length, np.uint32)
        for films in data.sites:
            if is_distributed(plan):
                update, noise = clipped_sum(terms, state.weights, films), discrete_gaussian
            else:
                update, noise = train_locally(terms, state.weights, films).delta, None
            total += encoding.encode(update, weight=1, metrics=no_counts, noise=noise)[0]
        mean = encoding.decode(total, contributors=len(data.sites)).mean_update
        state = step(state, mean, server)
    layout = metric_layout(plan)
    return {
        part: float(Metrics.from_counts(layout, evaluate(terms, state.weights, films, layout)).auc)
        for part, films in (("validation", data.validation), ("test", data.test))
    }
