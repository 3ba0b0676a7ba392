"""A model trained at one site alone starts, steps and ends as the plan says."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from judged_films import bright_cohort, plan

from primia import alone
from primia.alone import train_alone
from primia.imaging.dataset import Cohort
from primia.learning.evaluate import predict
from primia.learning.local import LocalUpdate
from primia.learning.terms import LocalTerms
from primia.study import first_weights


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return bright_cohort()


def test_it_learns(cohort: Cohort) -> None:
    study = plan(rounds=8)
    weights = train_alone(study, cohort, private=False)
    logits = predict(LocalTerms.of(study), weights, cohort.validation)
    assert (logits.argmax(1) == cohort.validation.labels).mean() > 0.8


@pytest.mark.parametrize("private", [True, False])
def test_every_round_of_the_plan_is_trained_on_its_terms(
    cohort: Cohort, private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = plan(server={"name": "fedavg", "learning_rate": 0.5})
    seen: list[tuple[LocalTerms, np.ndarray]] = []

    def once(terms: LocalTerms, weights: np.ndarray, films: object, **_: object) -> LocalUpdate:
        seen.append((terms, weights.copy()))
        return LocalUpdate(np.ones_like(weights), terms.local_steps, 1)

    rounds: list[tuple[int, int]] = []
    monkeypatch.setattr(alone, "train_locally", once)
    train_alone(study, cohort, private=private, on_round=lambda *r: rounds.append(r))
    assert rounds == [(i, 4) for i in (1, 2, 3, 4)]
    assert np.array_equal(seen[0][1], first_weights(study))
    for (_, before), (_, after) in pairwise(seen):
        assert np.allclose(after - before, 0.5, atol=1e-6)  # the server's step of the plan
    own = LocalTerms.of(study)
    assert all((terms.privacy == own.privacy) == private for terms, _ in seen)
    assert {terms.local_steps for terms, _ in seen} == {own.local_steps}


def test_the_best_of_its_rounds_is_kept(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round that spoils the model does not come out."""
    study = plan(rounds=5, privacy="none")
    real, count = alone.train_locally, [0]

    def spoils(
        terms: LocalTerms, weights: np.ndarray, films: object, **more: object
    ) -> LocalUpdate:
        count[0] += 1
        if count[0] == 5:
            return LocalUpdate(-weights, terms.local_steps, 1)
        return real(terms, weights, films, **more)

    monkeypatch.setattr(alone, "train_locally", spoils)
    assert np.abs(train_alone(study, cohort, private=False)).max() > 0
