"""`primia audit study`: canaries ride through a rehearsal of the whole study, round by round.

The rehearsal is that of `primia simulate`, with the plan's rounds, steps, rate, clipping, noise,
masks and server, and made-up patients alone. A canary is in the study, or not, by a fair coin; in,
it is drawn like any patient. What whoever knows everybody else sees of it over all rounds bounds ε
from below, against the price of the whole plan. No hospital's study ever holds a canary.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import numpy as np

from primia.audit.canaries import Canaries, Ids
from primia.audit.checks import Check, at_least, at_most, exact, level, shape, unrelated_rows
from primia.audit.mechanism import CANARIES, Z, check_numbers
from primia.audit.path import Floats, Hospitals, rehearsed
from primia.audit.verdict import FAR_DELTA, Evidence, Judgement
from primia.config.plan import StudyPlan
from primia.errors import RoundFailed
from primia.federation.contribution import Aggregate
from primia.findings import Finding
from primia.learning.terms import is_distributed, study_mechanism
from primia.privacy import epsilon
from primia.protocol.messages import RoundKind
from primia.settle import settled_digest
from primia.simulate.crew import Done, Task, Weights
from primia.simulate.study import Simulation, Wishes
from primia.types import SiteId

_KEPT = 200  # rounds whose noise is compared
OnStep = Callable[[int, int], None]


def audit_study(
    plan: StudyPlan,
    *,
    canaries: int = CANARIES,
    z: float = Z,
    on_step: OnStep = lambda _done, _of: None,
) -> Finding:
    """The finding for `plan` as a whole; it takes as long as training on so many small films.

    A claim that is met is refuted with probability 2 Φ(-z) at most. Raises ConfigError for
    `privacy: none` and for wrong numbers.
    """
    check_numbers(canaries, z)
    began = time.time()
    training = plan.training
    terms = rehearsed(
        plan,
        rate=training.patient_sampling_rate,
        steps=training.local_steps,
        most_patients=canaries,
    )
    assert terms.privacy != "none"
    whole = study_mechanism(terms)
    assert whole is not None
    delta = terms.privacy.delta
    coins = (np.frombuffer(os.urandom(canaries), np.uint8) & 1).astype(bool)
    seen = _Watch(terms, canaries, np.flatnonzero(coins), on_step)
    stopped = seen.play()
    evidence = Evidence(
        scores=None if stopped else seen.canaries.scores(seen.total)[:canaries],
        included=coins,
        claimed=epsilon([whole], delta),
        claimed_far=epsilon([whole], FAR_DELTA),
        delta=delta,
        conditions=seen.checks(stopped),
        played=f"{whole.steps} steps of the whole study",
    )
    judged = Judgement(evidence, z)
    return Finding(
        command="audit study",
        title="Audit of a rehearsed study",
        question="Do made-up patients show more over the whole study than its ε allows?",
        verdict=judged.verdict,
        answer=judged.answer,
        limits=(
            f"A claim that holds is refuted once in {1 / judged.false_alarms:.0f} audits. Not "
            "refuted is not proved: what is scored is the sum over all rounds, which shows less "
            "than the best test would, so this bound stays well below the claim; it sees what adds "
            "up over rounds. `primia audit mechanism` is sharper on a single step."
        ),
        figures=judged.figures() | {"rounds": seen.rounds, "steps": whole.steps},
        tables=judged.tables(),
        seconds=time.time() - began,
        made_at=began,
        plan=settled_digest(plan),
    )


class _Watch:
    """A simulation whose sites have canaries, and what is seen of each sum.

    total: of what is seen of the audited site over all rounds, in clip norms, (parameters,).
    """

    def __init__(self, plan: StudyPlan, canaries: int, patients: Ids, on_step: OnStep) -> None:
        assert plan.privacy != "none"
        self.plan, self._patients, self._on_step = plan, patients, on_step
        self.canaries = Canaries.of(plan, canaries + 1)
        self._sites = Hospitals(plan, self.canaries)
        self._stranger = np.array([canaries])
        self.total: Floats = np.zeros(self.canaries.parameters)
        self.rounds = 0
        self._noise: list[Floats] = []
        self._shortened = False

    def play(self) -> str:
        """Run the study; why it did not come to its end, or nothing."""
        start = self.canaries.start()
        study = Simulation(self.plan, self._sites.fixed, start, self, Wishes(), on_sum=self._add)
        try:
            study.run()
        except RoundFailed as err:
            return str(err)
        return ""

    def work(self, tasks: Sequence[Task], weights: Weights) -> dict[SiteId, Done]:
        """The audited site trains on its canaries; of the others `Hospitals.release` tells."""
        return {task.site: Done(self._vector(task, weights), None) for task in tasks}

    def close(self) -> None:
        """Nothing is held."""

    def _vector(self, task: Task, weights: Weights) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
        place = self.plan.site_ids.index(task.site)
        if task.kind is RoundKind.EVALUATE:
            return self._sites.nothing()
        if place == 0:
            work = self._sites.work(self._patients, weights)
            self._shortened |= self._sites.shortened(work)
            return work.vector
        if place <= self._sites.known:
            return self._sites.known_vector()
        return self._sites.work(self._stranger, weights).vector

    def _add(self, kind: RoundKind, found: Aggregate) -> None:
        if kind is RoundKind.EVALUATE:
            return
        seen = self._sites.read(found, sites=len(self.plan.sites), patients=self._patients.size)
        self.total += seen
        self.rounds += 1
        if len(self._noise) < _KEPT:
            self._noise.append(self.canaries.noise(seen).ravel())
        self._on_step(self.rounds, self.plan.rounds)

    def checks(self, reason: str) -> list[Check]:
        """What has to hold of the rounds; `reason`: why the study stopped."""
        met = not reason and self.rounds == self.plan.rounds
        found = [
            exact("rounds", f"{self.plan.rounds}", met=met, seen=reason or f"{self.rounds} summed")
        ]
        if self.rounds:
            added = self.canaries.scores(self.total)[self._patients] / self.rounds
            most = self._sites.most_of_a_patient
            found.append(at_most("what a patient adds to a round, in clip norms", [added], most))
        if self._noise:
            rows = np.stack(self._noise)
            assert self.plan.privacy != "none"
            assert self.plan.privacy.noise_multiplier is not None
            if is_distributed(self.plan):
                least = self.plan.privacy.noise_multiplier
                found.append(at_least("noise of a sum", rows, least))
            scaled = rows / np.maximum(rows.std(axis=1, keepdims=True), 1e-300)
            if not self._shortened:
                found.append(level("noise of each round", list(rows), self._sites.noise_of_sum))
            found.append(shape("shape of the noise", scaled))
            if len(rows) > 1:
                found.append(unrelated_rows("noise of rounds", rows))
        return found
