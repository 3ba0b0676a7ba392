"""Membership inference against models trained as a plan says, and against one that was exported.

Every model here is made by the product's own local work and server step (`rounds_alone`), at one
site alone: undiluted by others, as whoever knows their updates sees it. References and targets are
different trainings; each patient is in half of the references and, by a coin, in a target or not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from primia.alone import rounds_alone
from primia.audit.membership_rates import Trials
from primia.audit.membership_scores import (
    Bools,
    Floats,
    Method,
    References,
    confidence,
    likelihood_ratio,
    lira,
    of_patients,
    ratio_of_strangers,
    rmia,
)
from primia.config.plan import StudyPlan
from primia.errors import ConfigError
from primia.federation.optimiser import FedAdam, FedAvg
from primia.imaging.dataset import Films
from primia.learning.evaluate import predict
from primia.learning.models import FloatVector, build_for, flatten
from primia.learning.noise import Entropy
from primia.learning.terms import LocalTerms
from primia.study import optimiser

REFERENCES: dict[Method, int] = {"lira": 16, "rmia": 4}
"""By default; RMIA is made for few, LiRA fits a Gaussian to each half of them."""

MOST_TARGETS = 16
CONTROL_TARGETS = 8
CONTROL_PATIENTS = 80  # at most: half of them are learnt by heart
CONTROL_BATCH = 40.0  # patients
CONTROL_PASSES = 150
CONTROL_WRONG = 0.2  # of the labels, so that there is something to learn by heart

_RESERVE = 0.9  # of the budget is planned for; a busy machine takes the rest
_SPLITS = 0x6D656D62  # keeps the coins of a seed apart from the films drawn from the same seed

OnTraining = Callable[[int, int], None]
"""Called after each training with (trainings done, trainings in all)."""


@dataclass(frozen=True)
class Recipe:
    """How a model is made of films. terms: with the divisor that suits the films trained on."""

    name: str
    terms: LocalTerms
    server: FedAvg | FedAdam
    rounds: int

    def train(self, films: Films, entropy: Entropy = os.urandom) -> FloatVector:
        """Weights after all rounds. Raises DataError when the films do not fit."""
        start = flatten(build_for(self.terms.model))
        *_, last = rounds_alone(self.terms, self.server, start, films, self.rounds, entropy=entropy)
        return last


@dataclass(frozen=True, eq=False)
class Pool:
    """Whose membership is asked for, and strangers on whom nothing is trained (RMIA's z)."""

    films: Films
    strangers: Films

    def answers(self, recipe: Recipe, weights: FloatVector) -> tuple[Floats, Floats]:
        """The model's confidence in the label of each film of the pool, and of the strangers."""
        return (
            confidence(predict(recipe.terms, weights, self.films), self.films.labels),
            confidence(predict(recipe.terms, weights, self.strangers), self.strangers.labels),
        )


@dataclass(frozen=True)
class Fit:
    """How well a target does: the share of films it is right on, trained on and not."""

    inside: float
    outside: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """One recipe, attacked."""

    recipe: str
    references: int
    trials: Trials
    fit: Fit


@dataclass(frozen=True, eq=False)
class Exported:
    """A model made elsewhere. members: whom this site gave to its training, (patients,)."""

    weights: FloatVector
    members: Bools


def as_planned(plan: StudyPlan, patients: int) -> Recipe:
    """The plan at one site that trains on so many patients.

    The constant divisor of the noised sum becomes the plan's sampling rate times *this* number: a
    smaller rehearsal takes steps as long as the study's. Raises ConfigError as `LocalTerms.of`.
    """
    terms = LocalTerms.of(plan)
    terms = replace(terms, expected_patients=max(1.0, terms.sampling_rate * patients))
    return Recipe("the plan", terms, optimiser(plan), plan.rounds)


def without_privacy(recipe: Recipe) -> Recipe:
    """The same steps on mini-batches, neither clipped nor noised."""
    return replace(recipe, name="without privacy", terms=replace(recipe.terms, privacy=None))


def memorising(recipe: Recipe, patients: int) -> Recipe:
    """The same network, made to learn its films by heart: small steps, many passes, no noise."""
    batch = min(CONTROL_BATCH, float(patients))
    terms = replace(
        recipe.terms,
        privacy=None,
        augmentations=1,
        expected_patients=batch,
        local_steps=round(CONTROL_PASSES * patients / batch),
        learning_rate=0.1,
        momentum=0.9,
    )
    return Recipe("learnt by heart", terms, FedAvg(), 1)


def control_pool(pool: Pool, seed: int) -> Pool:
    """A few patients of the pool, with a part of their labels wrong."""
    count, classes = pool.films.patient_count, int(pool.films.labels.max()) + 1
    rng = np.random.default_rng([seed, _SPLITS, 1])
    chosen = rng.permutation(count)[:CONTROL_PATIENTS]
    films = pool.films.select(np.isin(pool.films.patients, chosen))
    wrong = rng.random(films.patient_count) < CONTROL_WRONG
    shift = np.where(wrong, rng.integers(1, max(2, classes), films.patient_count), 0)
    labels = (films.labels + shift[films.patients]) % max(2, classes)
    return Pool(Films(films.pixels, labels, films.patients), pool.strangers)


def in_halves(references: int, patients: int, rng: np.random.Generator) -> Bools:
    """Who is in which reference, bool (references, patients): every patient in exactly half.

    references: even. Of each pair the second trains on whom the first does not.
    """
    coins = rng.random((references // 2, patients)) < 0.5
    return np.stack([coins, ~coins], axis=1).reshape(references, patients)


def trained_on(films: Films, members: Bools) -> Films:
    """All films of the patients in `members`, bool (patients,), and of nobody else."""
    return films.select(members[films.patients])


@dataclass
class Attack:
    """Attacks on several recipes within one budget of seconds.

    targets: trainings that are attacked, None for what the budget allows, up to `MOST_TARGETS`.
    entropy: of noise and batches; anything but the system's belongs in tests.
    """

    method: Method = "lira"
    references: int = 0  # 0: what the method takes
    targets: int | None = None
    budget: float = 600.0
    seed: int = 0
    entropy: Entropy = os.urandom
    on_training: OnTraining = lambda _done, _of: None
    clock: Callable[[], float] = time.monotonic
    _done: int = field(default=0, init=False)
    _total: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.references = self.references or REFERENCES[self.method]
        if self.references < 2 or self.references % 2:
            raise ConfigError(
                f"--references {self.references}: each patient is in half of them; give an even "
                "number from 2 on"
            )
        if self.method == "lira" and self.references < 4:
            raise ConfigError(
                "--references 2: LiRA needs 4 or more to see how answers spread; use --method rmia"
            )

    def on(
        self, recipes: list[tuple[Recipe, Pool]], exported: Exported | None = None
    ) -> list[Outcome]:
        """Train references and targets of each recipe on its pool, and attack the targets.

        The first recipe is the control and gets few targets. exported: attacked in place of
        targets of the last recipe, by references made as that recipe says.
        Raises ConfigError when the budget is too short for the fewest trainings that say anything.
        """
        began = self.clock()
        self._done, self._total = 0, len(recipes) * (self.references + 1)
        runs = [
            _Run(recipe, pool, self, np.random.default_rng([self.seed, _SPLITS, 2 + i]))
            for i, (recipe, pool) in enumerate(recipes)
        ]
        costs = []
        for run in runs:  # one training of each tells what all will take
            before = self.clock()
            run.reference()
            costs.append(self.clock() - before)
        attacked = costs if exported is None else costs[:-1]
        targets = self._targets_within(costs, attacked, self.clock() - began)
        self._total = len(recipes) * self.references + sum(targets)
        outcomes = [run.finish(count) for run, count in zip(runs, targets, strict=False)]
        return outcomes if exported is None else [*outcomes, runs[-1].against(exported)]

    def _targets_within(self, costs: list[float], attacked: list[float], spent: float) -> list[int]:
        """So many targets of each recipe as fit; the control's are few."""
        control = min(CONTROL_TARGETS, self.targets or MOST_TARGETS)
        fixed = sum(costs) * (self.references - 1) + costs[0] * control
        one_each = sum(attacked[1:])
        left = self.budget * _RESERVE - spent - fixed
        least = self.targets or 1
        if left < least * one_each:
            need = (spent + fixed + least * one_each) / _RESERVE
            raise ConfigError(
                f"--budget {self.budget:g}: {self.references} references and {least} "
                f"target{'s' * (least > 1)} of each kind take about {need:.0f} seconds "
                "here; give more, fewer --references (--method rmia takes 2), or fewer patients"
            )
        most = int(left / one_each) if one_each else 0
        return [control, *(self.targets or min(most, MOST_TARGETS) for _ in attacked[1:])]

    def tick(self) -> None:
        """One training is done."""
        self._done += 1
        self.on_training(self._done, self._total)


class _Run:
    """One recipe's trainings, in order."""

    def __init__(
        self, recipe: Recipe, pool: Pool, attack: Attack, rng: np.random.Generator
    ) -> None:
        self.recipe, self.pool, self.attack, self.rng = recipe, pool, attack, rng
        self._halves = in_halves(attack.references, pool.films.patient_count, rng)
        self._own: list[Floats] = []
        self._strangers: list[Floats] = []

    def reference(self) -> None:
        """Train the next reference."""
        members = self._halves[len(self._own)]
        own, strangers = self.pool.answers(self.recipe, self._train(members))
        self._own.append(own)
        self._strangers.append(strangers)

    def finish(self, targets: int) -> Outcome:
        """The rest of the references, then so many targets, and the attack on each."""
        while len(self._own) < self.attack.references:
            self.reference()
        members = self.rng.random((targets, self.pool.films.patient_count)) < 0.5
        scores, fits = [], []
        for who in members:
            weights = self._train(who)
            scores.append(self._scores(weights, calibrated=True))
            fits.append(self._fit(weights, who))
        fit = Fit(*(float(np.mean([getattr(f, k) for f in fits])) for k in ("inside", "outside")))
        return self._outcome(Trials(np.array(scores), members), fit)

    def against(self, exported: Exported) -> Outcome:
        """The rest of the references, and the attack on a model that was not made here.

        With one target, RMIA's comparison with strangers changes no rank and is left out.
        """
        while len(self._own) < self.attack.references:
            self.reference()
        weights, members = exported.weights, exported.members
        scores = self._scores(weights, calibrated=False)
        return self._outcome(Trials(scores[None], members[None]), self._fit(weights, members))

    def _outcome(self, trials: Trials, fit: Fit) -> Outcome:
        return Outcome(self.recipe.name, self.attack.references, trials, fit)

    def _train(self, members: Bools) -> FloatVector:
        films = trained_on(self.pool.films, members)
        weights = self.recipe.train(films, self.attack.entropy)
        self.attack.tick()
        return weights

    def _scores(self, weights: FloatVector, *, calibrated: bool) -> Floats:
        own, strangers = self.pool.answers(self.recipe, weights)
        patients = self.pool.films.patients
        references = References(np.array(self._own), self._halves)
        if self.attack.method == "lira":
            return lira(own, references, patients)
        ratio = likelihood_ratio(own, references, patients)
        if not calibrated:
            return ratio
        unseen = self.pool.strangers
        z = ratio_of_strangers(strangers, np.array(self._strangers), unseen.patients)
        return rmia(ratio, z)

    def _fit(self, weights: FloatVector, members: Bools) -> Fit:
        films = self.pool.films
        right = predict(self.recipe.terms, weights, films).argmax(1) == films.labels
        inside = members[films.patients]
        return Fit(_share(right[inside]), _share(right[~inside]))


def _share(right: Bools) -> float:
    return float(right.mean()) if right.size else 0.0


def groups(pool: Films, classes: tuple[str, ...]) -> Iterator[tuple[str, Bools]]:
    """Groups of patients that the films themselves tell: class, number of films, exposure."""
    count = pool.patient_count
    films = np.bincount(pool.patients, minlength=count)
    first = np.zeros(count, np.int64)
    first[pool.patients[::-1]] = pool.labels[::-1]  # of a patient's films, the first one's class
    for label, name in enumerate(classes):
        yield f"class {name}", first == label
    for number, words in ((1, "one film"), (2, "two films")):
        yield words, films == number
    yield "three films or more", films >= 3
    grey = pool.pixels.reshape(len(pool), -1).mean(1)
    exposure = of_patients(grey, pool.patients, count) / films
    low, high = np.quantile(exposure, [1 / 3, 2 / 3])
    yield "darkest third", exposure <= low
    yield "middle third", (exposure > low) & (exposure < high)
    yield "brightest third", exposure >= high
