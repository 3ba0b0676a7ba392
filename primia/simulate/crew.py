"""Where a simulation's vectors come from: sites that train, in a pool of processes, or that do
nothing, so that only the protocol is measured.

A process trains one site at a time, on one thread, and keeps the films of the sites it has seen.
"""

from __future__ import annotations

import hashlib
import multiprocessing as mp
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from primia.config.plan import StudyPlan
from primia.federation.contribution import Contribution, Entropy
from primia.protocol.messages import RoundKind
from primia.report.quality import SiteQuality
from primia.types import Ring, SiteId

if TYPE_CHECKING:
    from primia.imaging.dataset import Cohort

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """One site's work in one round. best: its highest AUC so far, which its vote measures by.

    seed: of all its entropy, or None for the system's.
    """

    site: SiteId
    number: int
    attempt: int
    kind: RoundKind
    best: float | None
    seed: int | None = None


@dataclass(frozen=True)
class Done:
    """A site's vector, and the AUC of the round's model on its films where it votes."""

    vector: Ring
    auc: float | None


class Crew(Protocol):
    """Does the local work of all sites of a round."""

    def work(self, tasks: Sequence[Task], weights: Weights) -> dict[SiteId, Done]:
        """Each task's vector. Raises DataError when films cannot be used."""

    def close(self) -> None:
        """Let go of processes."""


class Idle:
    """Sites that do nothing: every update is zero, every count too."""

    def __init__(self, contribution: Contribution) -> None:
        self._train = self._vector(contribution, np.zeros(contribution.parameters, np.float32))
        self._evaluate = self._vector(contribution, None)

    @staticmethod
    def _vector(contribution: Contribution, update: Weights | None) -> Ring:
        metrics = np.zeros(contribution.metrics, np.int64)
        return contribution.encode(update, weight=1, metrics=metrics)[0]

    def work(self, tasks: Sequence[Task], weights: Weights) -> dict[SiteId, Done]:  # noqa: ARG002
        """The same vector for all."""
        return {
            t.site: Done(self._evaluate if t.kind is RoundKind.EVALUATE else self._train, None)
            for t in tasks
        }

    def close(self) -> None:
        """Nothing is held."""


class Pool:
    """Sites that train on their films, each for itself, as many at a time as there are processes.

    films: each site's NPZ.
    """

    def __init__(
        self,
        plan: StudyPlan,
        contribution: Contribution,
        films: dict[SiteId, Path],
        processes: int,
    ) -> None:
        self._sites = tuple(films)
        self._pool = ProcessPoolExecutor(
            processes,
            mp_context=mp.get_context("spawn"),  # torch's threads do not survive a fork
            initializer=_prepare,
            initargs=(plan, contribution, films),
        )

    def work(self, tasks: Sequence[Task], weights: Weights) -> dict[SiteId, Done]:
        """Each task's vector; what the pool raises comes through."""
        running = {t.site: self._pool.submit(_train, t, weights) for t in tasks}
        return {site: future.result() for site, future in running.items()}

    def judge(self, weights: Weights) -> list[SiteQuality]:
        """What each site finds of a model on its own films, against one of its films alone."""
        running = [self._pool.submit(_judge, site, weights) for site in self._sites]
        return [future.result() for future in running]

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)


class _Desk:
    """What one process of the pool holds."""

    def __init__(
        self, plan: StudyPlan, contribution: Contribution, films: dict[SiteId, Path]
    ) -> None:
        from primia.config.site import DataSource
        from primia.imaging.readers import load_cohort
        from primia.learning.parallel import use_threads

        use_threads(1)
        self.plan, self.contribution = plan, contribution
        self._films = films
        self._cohorts: dict[SiteId, Cohort] = {}
        self._source, self._load = DataSource, load_cohort

    def cohort(self, site: SiteId) -> Cohort:
        if site not in self._cohorts:
            self._cohorts[site] = self._load(
                self._source(kind="npz", path=self._films[site]),
                classes=self.plan.model.classes,
                input_size=self.plan.model.input_size,
                min_patients=2,
            )
        return self._cohorts[site]

    def train(self, task: Task, weights: Weights) -> Done:
        from primia.contribute import vector_of

        tolerance = self.plan.evaluation.vote_tolerance
        seen: list[float] = []

        def accepts(auc: float) -> bool:
            seen.append(auc)
            return tolerance is None or task.best is None or auc >= task.best - tolerance

        vector, _ = vector_of(
            self.plan,
            self.contribution,
            self.cohort(task.site),
            task.kind,
            weights,
            accepts=accepts,
            entropy=entropy_of(task.seed, f"{task.site}/{task.number}/{task.attempt}"),
        )
        return Done(vector, seen[0] if seen else None)


_desk: _Desk | None = None  # of this process of the pool


def _prepare(plan: StudyPlan, contribution: Contribution, films: dict[SiteId, Path]) -> None:
    global _desk
    _desk = _Desk(plan, contribution, films)


def _train(task: Task, weights: Weights) -> Done:
    assert _desk is not None
    return _desk.train(task, weights)


def _judge(site: SiteId, weights: Weights) -> SiteQuality:
    from primia.site_quality import site_quality

    assert _desk is not None
    return site_quality(_desk.plan, _desk.cohort(site), weights, site=site, alone="plain")


def entropy_of(seed: int | None, what: str) -> Entropy:
    """The system's entropy; with a seed, bytes that `seed` and `what` decide alone.

    Raises PolicyRefused for a seed outside tests and simulations.
    """
    if seed is None:
        return os.urandom
    from primia.learning.insecure import InsecureEntropyWarning, insecure_seeded_entropy

    key = int.from_bytes(hashlib.sha256(f"{seed}/{what}".encode()).digest(), "big")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureEntropyWarning)  # the study says so, once
        return insecure_seeded_entropy(key)
