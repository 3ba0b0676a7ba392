"""A rehearsed study is refuted when its rounds show too much.

False alarms: an honest study is refuted with probability 2 Φ(-z) at most, 0.2 % at z = 3.09.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from primia import contribute
from primia.audit.mechanism import STAND_IN
from primia.audit.study import audit_study
from primia.config.plan import StudyPlan
from primia.config.strict import validate
from primia.errors import ConfigError
from primia.findings import Verdict
from primia.learning import local, terms
from primia.learning.clipping import Flat
from primia.learning.step import PrivateStep


def short(**training: Any) -> StudyPlan:
    raw = STAND_IN.model_dump(mode="json")
    raw["rounds"] = 4
    raw["training"] = {**raw["training"], "local_steps": 3, "momentum": 0.5, **training}
    return validate(StudyPlan, raw, where="test")


SHARED = validate(
    StudyPlan,
    {
        **short(local_steps=1, momentum=0.0).model_dump(mode="json"),
        "sites": ["a", "b", "c", "d"],
        "privacy": {"delta": 1e-4, "noise_multiplier": 1.2, "noise": "distributed"},
    },
    where="test",
)


@pytest.mark.parametrize("plan", [short(), SHARED], ids=["site noise", "shared noise"])
def test_an_honest_study_is_not_refuted_and_its_bound_lies_below_the_plans_epsilon(
    plan: StudyPlan,
) -> None:
    found = audit_study(plan, canaries=1000)
    assert found.verdict is Verdict.NOT_REFUTED, found.answer
    assert found.figures["rounds"] == plan.rounds
    assert found.figures["steps"] == plan.rounds * plan.training.local_steps
    lower, claimed = found.figures["epsilon_gaussian_lower"], found.figures["epsilon_claimed"]
    assert isinstance(lower, float)
    assert isinstance(claimed, float)
    assert lower < claimed


def test_a_fifth_of_the_noise_shows_in_the_whole_studys_epsilon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fifth = property(lambda step: step.noise_multiplier / 5)
    monkeypatch.setattr(PrivateStep, "gradient_noise", fifth)
    found = audit_study(short(patient_sampling_rate=1.0), canaries=1000)
    assert found.verdict is Verdict.REFUTED
    lower, claimed = found.figures["epsilon_gaussian_lower"], found.figures["epsilon_claimed"]
    assert isinstance(lower, float)
    assert isinstance(claimed, float)
    assert lower > claimed


def test_noise_that_is_the_same_in_every_round_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = local.private_step

    def private_step(terms: Any, entropy: Any, group: Any = None) -> PrivateStep:
        steps = iter(range(1000))

        def keys(size: int) -> bytes:
            return next(steps).to_bytes(size, "big") if size == 32 else entropy(size)

        return honest(terms, keys, group)

    monkeypatch.setattr(local, "private_step", private_step)
    found = audit_study(short(), canaries=1000)
    assert found.verdict is Verdict.REFUTED
    assert "noise of rounds" in {r[0] for r in found.tables[1].rows if r[3] == "broken"}


def test_a_sum_that_does_not_come_out_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = contribute.vector_of

    def heavy(*arguments: Any, **named: Any) -> Any:
        vector, clipped = honest(*arguments, **named)
        vector[:] = 0  # no weight: outside what the plan allows
        return vector, clipped

    monkeypatch.setattr("primia.audit.path.vector_of", heavy)
    monkeypatch.setattr("primia.simulate.study.MOST_ATTEMPTS", 1)
    found = audit_study(short(), canaries=1000)
    assert found.verdict is Verdict.REFUTED
    assert "rounds" in found.answer


def test_a_study_without_privacy_claims_nothing() -> None:
    bare = STAND_IN.model_copy(update={"privacy": "none"})
    with pytest.raises(ConfigError, match="claims nothing"):
        audit_study(bare)


@pytest.mark.parametrize("z", [float("nan"), 0.0, 50.0])
def test_a_bound_that_is_none_is_refused(z: float) -> None:
    with pytest.raises(ConfigError, match="must be from 1 to 6"):
        audit_study(short(), z=z)


def test_patients_who_are_not_clipped_are_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their own spread hides them from the bound on ε, which lies far below the claim."""
    monkeypatch.setattr(Flat, "factors", lambda _self, squared: torch.ones_like(squared))
    found = audit_study(short(), canaries=1000)
    assert found.verdict is Verdict.REFUTED
    assert "what a patient adds to a round" in found.answer


def test_shares_of_noise_that_count_on_one_site_too_many_are_refuted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = terms.noise_share

    def share(**named: Any) -> Any:
        return honest(**(named | {"honest": named["honest"] + 1}))

    monkeypatch.setattr(terms, "noise_share", share)
    found = audit_study(SHARED, canaries=1000)
    assert found.verdict is Verdict.REFUTED
    assert "noise of a sum" in found.answer
