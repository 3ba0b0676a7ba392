"""A study as it might have gone: four sites, eight rounds, one absence, one aborted attempt."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from primia.report.html import render
from primia.report.record import (
    Absence,
    Attempt,
    ModelRecord,
    Scores,
    SiteRecord,
    StudyRecord,
)
from primia.report.report import Prices, Report

SITES = ("hospital-a", "hospital-b", "hospital-c", "hospital-d")
CLASSES = ("normal", "bacterial", "viral")
START = 1_772_600_000.0  # 2026-03-04
PLAN: dict[str, Any] = {
    "study": "paediatric-cxr",
    "purpose": "Normal against bacterial against viral pneumonia in children. Research use.",
    "model": {"name": "small-cnn", "input_size": 64, "channels": 1, "classes": list(CLASSES)},
    "sites": list(SITES),
    "rounds": 8,
    "schedule": {"deadline_s": 3600.0, "quorum": 3, "grace_s": 120.0, "stage_timeout_s": 60.0},
    "training": {
        "patient_sampling_rate": 0.25,
        "local_steps": 10,
        "expected_patients": 150.0,
        "max_films_per_patient": 4,
        "learning_rate": 0.5,
        "momentum": 0.9,
    },
    "privacy": {
        "clip_norm": 1.0,
        "delta": 1e-4,
        "noise_multiplier": 1.43,
        "target_epsilon": None,
    },
    "aggregation": {
        "weighting": "constant",
        "max_patients": None,
        "encoding_bits": None,
        "wire_bits": 24,
        "encoding_range": 4.0,
    },
    "server": {
        "name": "fedavg",
        "learning_rate": 1.0,
        "beta1": 0.9,
        "beta2": 0.99,
        "tau": 1e-3,
    },
    "evaluation": {"histogram_bins": 128},
}


def epsilon_after(rounds: int) -> float:
    """Stands for the accountant; grows as the square root, as composition does."""
    return 7.96 * math.sqrt(rounds / 8)


EPSILON_BY_ROUND = {n: epsilon_after(n) for n in range(1, 9)}


@pytest.fixture
def epsilon_by_round() -> dict[int, float]:
    return dict(EPSILON_BY_ROUND)


def scores_at(round_: int, sites: tuple[str, ...] = SITES, classes: int = 3) -> Scores:
    """Scores that improve with the rounds and slip back a little in the last one."""
    skill = 1 - math.exp(-round_ / 2.2) - (0.03 if round_ == 8 else 0)
    steps = (0, 1, 2)[:classes] if classes > 2 else (0, 0)
    aucs = tuple(0.5 + (0.47 - 0.06 * k) * skill for k in steps)
    truth = [83 * len(sites), 120 * len(sites), 71 * len(sites)][:classes]
    hit = 0.35 + 0.55 * skill
    confusion = []
    for row, total in enumerate(truth):
        wrong = [round(total * (1 - hit) * share) for share in (0.7, 0.3)][: classes - 1]
        cells = [*wrong[:row], total - sum(wrong), *wrong[row:]]
        confusion.append(tuple(cells))
    films = sum(truth)
    correct = sum(confusion[i][i] for i in range(classes))
    return Scores(
        films=films,
        sites=sites,
        loss=1.1 - 0.7 * skill,
        auc=sum(aucs) / classes,
        auc_per_class=aucs,
        accuracy=correct / films,
        balanced_accuracy=sum(confusion[i][i] / sum(confusion[i]) for i in range(classes))
        / classes,
        confusion=tuple(confusion),
        roc=tuple(_roc(auc) for auc in aucs),
    )


def _roc(auc: float) -> tuple[tuple[float, float], ...]:
    power = 1 / auc - 1  # the area under x ** p is 1 / (p + 1)
    grid = [(i / 40) ** 3 for i in range(41)]
    return tuple((x, x**power if x else 0.0) for x in grid)


def _attempts() -> tuple[Attempt, ...]:
    out: list[Attempt] = []
    clock = START

    def add(number: int, lost: tuple[Absence, ...], outcome: str, reason: str, took: float) -> None:
        nonlocal clock
        train = number <= 8
        gone = {a.site for a in lost}
        committed = outcome == "committed"
        out.append(
            Attempt(
                attempt=len(out) + 1,
                number=number,
                kind="train" if train else "evaluate",
                outcome=outcome,
                reason=reason,
                contributors=tuple(s for s in SITES if s not in gone) if committed else (),
                absent=lost,
                opened_at=clock,
                closed_at=clock + took,
                update_norm=1.9 / number if train and committed else None,
            )
        )
        clock += took + 0.4

    away = (Absence("hospital-c", "training", "not ready when the grace time ended"),)
    add(1, (), "committed", "", 48.2)
    add(2, (), "committed", "", 44.9)
    add(3, away, "committed", "", 165.0)
    add(4, away, "committed", "", 164.1)
    lost = (
        Absence("hospital-b", "masked update", "silent for 60 s"),
        Absence("hospital-d", "masked update", "silent for 60 s"),
    )
    add(5, lost, "aborted", "2 of 4 masked updates arrived, 3 are needed; nothing released", 107.3)
    for number in (5, 6, 7, 8):
        add(number, (), "committed", "", 40.0 + number)
    add(9, (), "committed", "", 6.2)
    return tuple(out)


@pytest.fixture
def record() -> StudyRecord:
    return make_record()


@pytest.fixture(scope="session")
def html() -> str:
    """The page of the whole record, drawn once."""
    return render(Report(make_record(), Prices(EPSILON_BY_ROUND)))


def make_record() -> StudyRecord:
    three = tuple(s for s in SITES if s != "hospital-c")
    models = tuple(
        # Model 2 and 3 are evaluated in rounds 3 and 4, where one site is away.
        ModelRecord(n, f"{n:064x}", scores_at(n, three if n in (2, 3) else SITES))
        for n in range(9)
    )
    sites = tuple(
        SiteRecord(
            site=site,
            certificate=f"{0x9F3A + 77 * i:04x}c27be1d05584" * 4,
            enrolled_at=START - 86400 + 600 * i,
            struck_at=None,
            rounds_contributed=6 if site == "hospital-c" else 8,
            rounds_charged=7 if site == "hospital-c" else 9,
            epsilon=epsilon_after(6 if site == "hospital-c" else 8),
        )
        for i, site in enumerate(SITES)
    )
    return StudyRecord(
        study="paediatric-cxr",
        state="finished",
        plan=deepcopy(PLAN),
        plan_digest="4be1d055849f3ac27be1d055849f3ac27be1d055849f3ac27be1d055849f3ac2",
        planned_epsilon=epsilon_after(8),
        delta=1e-4,
        parameters=15_234,
        attempts=_attempts(),
        models=models,
        best=7,
        sites=sites,
        versions={"primia": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "numpy": "2.4.1"},
        written_at=START + 900,
    )


@pytest.fixture
def no_privacy(record: StudyRecord) -> StudyRecord:
    """The same study under `privacy: none`."""
    return replace(
        record,
        plan={**record.plan, "privacy": "none"},
        planned_epsilon=None,
        delta=None,
        sites=tuple(replace(s, epsilon=None) for s in record.sites),
    )


@pytest.fixture
def two_classes(record: StudyRecord) -> StudyRecord:
    """The same study with a binary question."""
    model = {**record.plan["model"], "classes": ["normal", "pneumonia"]}
    models = tuple(replace(m, scores=scores_at(m.number, classes=2)) for m in record.models)
    return replace(record, plan={**record.plan, "model": model}, models=models)


@pytest.fixture
def empty(record: StudyRecord) -> StudyRecord:
    """A study that has only just been started."""
    return replace(
        record, state="running", attempts=(), models=(), best=None, sites=(), versions={}
    )
