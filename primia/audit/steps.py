"""A site's steps, watched one by one: noise, draws and divisor against what the plan claims.

Some groups of canaries share a direction each, so that a noised sum shows how many of a group were
drawn; the directions of all others hold noise alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from primia.audit.canaries import LAYERS, Canaries, Ids
from primia.audit.checks import (
    Check,
    Floats,
    drawn,
    level,
    shape,
    spread,
    unrelated_draws,
    unrelated_rows,
    unrelated_weights,
)
from primia.audit.path import Hospitals, rehearsed
from primia.config.plan import StudyPlan
from primia.learning.clipping import CLIP_MARGIN

IDS = 512
_STEPS = 100  # watched, at least
_LONGEST = 50  # steps of a round
_MOST_PATIENTS = 8000
_MOST_GROUPS = 32


@dataclass(frozen=True)
class _Groups:
    """So many groups of so many patients each, who share a direction."""

    count: int
    size: int

    @classmethod
    def of(cls, rate: float, noise: float, room: float) -> _Groups:
        """Such that the draws vary twice as much as noise, where so many patients can be had.

        room: how many of a group the encoding holds.
        """
        varies = rate * (1 - rate)
        size = math.ceil(4 * max(noise**2, 0.5) / varies) if varies else 8
        while size > 2 and size * rate + 6 * math.sqrt(size * varies) > room:
            size //= 2
        size = min(size, _MOST_PATIENTS // 2)
        return cls(max(2, min(_MOST_GROUPS, _MOST_PATIENTS // size)), size)


def watch(plan: StudyPlan, device: str = "cpu") -> list[Check]:
    """Check after check on at least 100 steps at the plan's own rate. Raises as `rehearsed`."""
    rate = plan.training.patient_sampling_rate
    steps = min(_LONGEST, plan.training.local_steps)
    rounds = max(2, math.ceil(_STEPS / steps))
    terms = rehearsed(plan, rate=rate, steps=steps, most_patients=_MOST_PATIENTS)
    assert terms.privacy != "none"
    canaries = Canaries(IDS, terms.privacy.clip_norm, terms.training.max_films_per_patient)
    site = Hospitals(terms, canaries, device)
    groups = _Groups.of(rate, site.noise, site.room)
    ids = np.arange(groups.count * groups.size, dtype=np.int64) % groups.count
    runs = np.stack([site.work(ids).steps for _ in range(rounds)])
    other = site.work(ids).steps  # another hospital with the same patients
    alone = np.concatenate([site.work(ids[:1]).steps for _ in range(2)])
    if runs.shape[1] != steps:
        seen = f"{runs.shape[1]}"
        return [Check("steps of a round", f"{steps}", seen, 0.0)]
    every = runs.reshape(rounds * steps, -1)
    counts = canaries.scores(every)[:, : groups.count]
    return [
        *_of_noise(canaries, every, np.concatenate([every, other]), alone, site.noise),
        *_of_draws(
            counts, canaries.films_of(ids[: groups.count]), groups, rounds, rate, site.noise
        ),
    ]


def _of_noise(
    canaries: Canaries, steps: Floats, with_other: Floats, alone: Floats, sigma: float
) -> list[Check]:
    noise = canaries.noise(steps)
    rows = canaries.noise(with_other).reshape(len(with_other), -1)
    return [
        level("noise of each layer", [noise[:, i] for i in range(LAYERS)], sigma),
        level("noise of each step", list(noise), sigma),
        level("noise of a batch of one patient or none", list(canaries.noise(alone)), sigma),
        shape("shape of the noise", noise / sigma),
        unrelated_rows("noise of steps, rounds and sites", rows),
        unrelated_weights("noise of weights and layers", rows),
    ]


def _of_draws(
    counts: Floats, films: Ids, groups: _Groups, rounds: int, rate: float, noise: float
) -> list[Check]:
    whole = 1 - CLIP_MARGIN
    variance = groups.size * rate * (1 - rate) * whole**2 + noise**2
    centred = counts - groups.size * rate * whole
    found = [
        drawn(
            "a patient's chance to be in a step", counts / whole, films, groups.size, rate, noise
        ),
        spread("patients in a step", centred.sum(1), groups.count * variance, "over steps"),
        unrelated_draws("draws of steps and rounds", centred / math.sqrt(variance), rounds),
    ]
    epoch = round(1 / rate)
    by_run = centred.reshape(rounds, -1, groups.count)
    epochs = by_run.shape[1] // epoch
    if epoch > 1 and epochs:
        cut = by_run[:, : epochs * epoch].reshape(rounds * epochs, epoch, groups.count).sum(1)
        found.append(spread("patients in an epoch", cut.ravel(), epoch * variance, "over epochs"))
    return found
