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
    exact,
    farthest,
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
from primia.learning.terms import is_distributed

IDS = 512
_STEPS = 100  # watched, at least
_ALONE = 300  # of a hospital with one patient, at least
_LONG, _SHORT = 6, IDS - 1  # canaries: a thousand clip norms long, and a tenth of one
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
    canaries = Canaries.of(terms, IDS)
    site = Hospitals(terms, canaries, device)
    groups = _Groups.of(rate, site.noise, site.room)
    ids = np.arange(groups.count * groups.size, dtype=np.int64) % groups.count
    # In every other round patients of a group follow each other, in the rest they are spread.
    runs = np.stack([site.work(np.sort(ids) if r % 2 else ids).steps for r in range(rounds)])
    other = site.work(ids).steps  # another hospital with the same patients
    alone = _alone(site, _LONG, math.ceil(_ALONE / steps))
    short = _alone(site, _SHORT, math.ceil(_STEPS / steps))
    if runs.shape[1] != steps:
        seen = f"{runs.shape[1]}"
        return [Check("steps of a round", f"{steps}", seen, 0.0)]
    every = runs.reshape(rounds * steps, -1)
    counts = canaries.scores(every)[:, : groups.count]
    films = canaries.films_of(ids[: groups.count])
    lone = canaries.scores(alone)[:, _LONG : _LONG + 1] / (1 - CLIP_MARGIN)
    nobody = canaries.nobody(every, groups.count) / site.noise
    return [
        *_of_noise(canaries, every, [every, other, alone], [alone, short], site.noise),
        farthest("farthest noise", nobody),
        *_of_digits(canaries.nobody(runs[:, 0], groups.count), plan),
        *_of_draws(counts, films, groups, rounds, rate, site.noise),
        drawn("an only patient's chance", lone, films[:1], 1, rate, site.noise),
    ]


def _alone(site: Hospitals, who: int, rounds: int) -> Floats:
    """Steps of a hospital with this patient and nobody else."""
    return np.concatenate([site.work(np.array([who])).steps for _ in range(rounds)])


def _of_noise(
    canaries: Canaries, steps: Floats, all_rows: list[Floats], alone: list[Floats], sigma: float
) -> list[Check]:
    noise = canaries.noise(steps)
    rows = np.concatenate([canaries.noise(part).reshape(len(part), -1) for part in all_rows])
    few = [row for part in alone for row in canaries.noise(part)]
    return [
        level("noise of each layer", [noise[:, i] for i in range(LAYERS)], sigma),
        level("noise of each step", list(noise), sigma),
        level("noise of a batch of one patient or none", few, sigma),
        shape("shape of the noise", noise / sigma),
        unrelated_rows("noise of steps, rounds and sites", rows),
        unrelated_weights("noise of weights and layers", rows),
    ]


def _of_digits(first: Floats, plan: StudyPlan) -> list[Check]:
    """Noise of few digits leaves those of the sum below it bare. Of first steps, which no weight
    rounds. (Shared noise is of whole steps, and so is what it is added to.)"""
    if is_distributed(plan):
        return []
    share = np.unique(first).size / first.size
    claim = "different in nine of ten weights"
    return [exact("digits of the noise", claim, met=share > 0.9, seen=f"in {share:.4f}")]


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
