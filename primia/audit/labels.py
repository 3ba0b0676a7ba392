"""Which classes a step's films have, read off the last layer's bias: `primia attack labels`.

The gradient of a cross entropy by the last bias is, over the rows, the sum of the predicted
probabilities less the labels as unit vectors. Whoever knows what the network predicts on average
knows how many films of each class there were (Zhao et al. 2020, arXiv 2001.02610, for one film;
Wainakh et al., PETS 2022, arXiv 2105.09369, for batches).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from primia.audit.chance import ALPHA, luck_of_wins
from primia.audit.films import Case
from primia.audit.release import Releases, Rows
from primia.audit.threads import one_thread
from primia.errors import ConfigError, DataError
from primia.federation.contribution import Entropy
from primia.findings import Figure, Finding, Table, Verdict
from primia.learning.local import to_input

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SIZES = (1, 4, 16)  # films in a step
TRIALS = 60  # steps of each size


def label_counts(bias: Floats, rows: int, probabilities: Floats) -> Counts:
    """How many of `rows` films are of each class.

    bias: the last bias's gradient, summed over the rows. probabilities: what the network predicts
    on average. Whole numbers that add up to `rows`, near to rows · probabilities - bias.
    """
    wanted = np.clip(rows * probabilities - bias, 0, None)
    total = wanted.sum()
    wanted = wanted * (rows / total) if total > 0 else rows * probabilities
    counts: Counts = np.floor(wanted).astype(np.int64)
    for _ in range(rows - int(counts.sum())):
        counts[int(np.argmax(wanted - counts))] += 1
    return counts


@dataclass(frozen=True)
class Score:
    """Of one way of release and one size of step, over all trials."""

    exact: float  # share of trials with every count right
    error: float  # mean absolute error of a count
    errors: tuple[int, ...]  # of each trial, summed over classes


@one_thread()
def attack_labels(
    case: Case,
    model: nn.Module,
    *,
    seed: int = 0,
    trials: int = TRIALS,
    entropy: Entropy = os.urandom,
    on_step: Callable[[str], None] = lambda _what: None,
) -> Finding:
    """Draw steps of 1, 4 and 16 films, release each in three ways, and count their labels.

    model: the plan's network. Raises ConfigError for a plan without privacy, DataError for fewer
    patients than a step has.
    """
    began = time.monotonic()
    if case.films.patient_count < max(SIZES):
        raise DataError(
            f"a step of this attack has films of {max(SIZES)} patients, and here are fewer; give "
            "more films, or leave --data out for synthetic ones"
        )
    releases = Releases(model, case.plan, entropy)
    where = _last_bias(model, releases)
    chance = np.random.default_rng([seed, 1])
    prior = _prior(case)
    probabilities = _mean_prediction(model, case, chance)
    scores: dict[tuple[str, int], Score] = {}
    for size in SIZES:
        on_step(f"labels of {size} film{'s' * (size > 1)}")
        steps = [_step(case, size, chance) for _ in range(trials)]
        true = [_counts(rows, prior.size) for rows in steps]
        for name, release in releases.ways().items():
            guessed = [
                label_counts(release(rows)[where].double().numpy(), size, probabilities)
                for rows in steps
            ]
            scores[name, size] = _score(guessed, true)
        blind = label_counts(np.zeros(prior.size), size, prior)
        scores["guess", size] = _score([blind] * trials, true)
    return _finding(scores, releases, trials, time.monotonic() - began, case=case)


def _last_bias(model: nn.Module, releases: Releases) -> int:
    """Where the last layer's bias stands among the gradient's tensors."""
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.bias is not None]
    for number, parameter in enumerate(releases.parameters):
        if heads and parameter is heads[-1].bias:
            return number
    raise ConfigError("the plan's network has no last bias that learns; there is nothing to read")


def _prior(case: Case) -> Floats:
    """Shares of the classes among all films: what a guess knows."""
    counts = np.bincount(case.films.labels, minlength=len(case.plan.model.classes))
    shares: Floats = counts / counts.sum()
    return shares


def _mean_prediction(model: nn.Module, case: Case, chance: np.random.Generator) -> Floats:
    """Over some films, which need not be those of the steps: the attacker has films of its own."""
    some = chance.choice(len(case.films), min(256, len(case.films)), replace=False)
    inputs = to_input(torch.from_numpy(case.films.pixels[some]), case.plan.model.channels, "cpu")
    with torch.inference_mode():
        found: Floats = model(inputs).softmax(1).mean(0).double().numpy()
    return found


def _step(case: Case, size: int, chance: np.random.Generator) -> Rows:
    """One film each of so many patients."""
    patients = chance.choice(case.films.patient_count, size, replace=False)
    films = [chance.choice(np.flatnonzero(case.films.patients == p)) for p in patients]
    return Rows.of(case.films, films)


def _counts(rows: Rows, classes: int) -> Counts:
    return np.bincount(rows.labels.numpy(), minlength=classes)


def _score(guessed: list[Counts], true: list[Counts]) -> Score:
    off = [np.abs(g - t) for g, t in zip(guessed, true, strict=True)]
    errors = tuple(int(o.sum()) for o in off)
    return Score(float(np.mean([e == 0 for e in errors])), float(np.mean(off)), errors)


def _finding(
    scores: dict[tuple[str, int], Score],
    releases: Releases,
    trials: int,
    seconds: float,
    *,
    case: Case,
) -> Finding:
    wins = losses = 0
    for size in SIZES:
        pairs = zip(scores["as planned", size].errors, scores["guess", size].errors, strict=True)
        for ours, blind in pairs:
            wins, losses = wins + (ours < blind), losses + (ours > blind)
    luck = luck_of_wins(wins, losses)
    held = luck >= ALPHA
    figures: dict[str, Figure] = {"trials": trials, "luck": luck}
    for (name, size), score in scores.items():
        key = f"{name.replace(' ', '_')}_{size}"
        # As in the table: more digits would tell the site's own classes to a patient.
        figures[f"exact_{key}"] = round(score.exact, 2)
        figures[f"error_{key}"] = round(score.error, 2)
    sigma = releases.privacy.noise_multiplier
    return Finding(
        command="attack labels",
        title="Label counts from the last bias",
        question="Does a step's gradient tell how many films of each class were in it?",
        verdict=Verdict.HELD if held else Verdict.FELL,
        answer=(
            f"Plain gradients gave every count right in {_share(scores, 'plain')} of the steps of "
            f"{_sizes()} films; with clipping and noise {sigma:g} as planned "
            f"{_share(scores, 'as planned')}, and a guess by the classes' shares "
            f"{_share(scores, 'guess')}."
        ),
        limits=case.size_text()
        + (
            f"{trials} steps of each size; a plan that only guesses is called fallen with a chance "
            f"of {ALPHA:g}. The attack reads the bias alone, of one step; training sums several."
        ),
        figures=figures,
        tables=(_table(scores),),
        local=case.own,
        seconds=seconds,
        made_at=time.time(),
        plan=case.digest,
    )


def _sizes() -> str:
    return f"{', '.join(map(str, SIZES[:-1]))} and {SIZES[-1]}"


def _share(scores: dict[tuple[str, int], Score], name: str) -> str:
    parts = [f"{scores[name, size].exact:.0%}" for size in SIZES]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _table(scores: dict[tuple[str, int], Score]) -> Table:
    rows = [
        (
            name,
            *(f"{scores[name, s].exact:.0%}, off by {scores[name, s].error:.2f}" for s in SIZES),
        )
        for name in ("plain", "clipped", "as planned", "guess")
    ]
    columns = ("all counts right, mean error", *(f"{s} film{'s' * (s > 1)}" for s in SIZES))
    return Table(columns, tuple(rows))
