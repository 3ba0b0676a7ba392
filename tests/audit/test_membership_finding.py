"""What is said of an attack on membership, and what of it may be handed on."""

from __future__ import annotations

import re

import numpy as np
import pytest

from primia.audit.membership import Fit, Outcome
from primia.audit.membership_finding import (
    Case,
    Claim,
    better_than_chance,
    finding,
    floor,
    roc,
    verdict,
)
from primia.audit.membership_rates import Trials
from primia.findings import Finding, Verdict, from_json, to_json

CLAIM = Claim(1.0, 1e-4)


def outcome(shift: float, *, targets: int = 8, patients: int = 400, seed: int = 0) -> Outcome:
    """Scores of members lie `shift` deviations above those of others."""
    rng = np.random.default_rng(seed)
    members = rng.random((targets, patients)) < 0.5
    trials = Trials(rng.standard_normal(members.shape) + shift * members, members)
    return Outcome(f"shift {shift:g}", 16, trials, Fit(0.8, 0.75))


def case(
    attacked: Outcome, *, control: float = 2.0, claim: Claim | None = CLAIM, local: bool = False
) -> Case:
    patients = attacked.trials.members.shape[1]
    few = np.arange(patients) < 12
    return Case(
        attacked=attacked,
        control=outcome(control, targets=4, patients=80, seed=1),
        compared=(outcome(0.5, seed=2),),
        claim=claim,
        groups=(("class a", few), ("class b", ~few)),
        method="lira",
        local=local,
    )


def found(of: Case) -> Finding:
    return finding(of, seconds=1.0, made_at=0.0)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (case(outcome(0.0)), Verdict.HELD),
        (case(outcome(0.1)), Verdict.TOLD),  # a trace: neither found for sure nor held
        (case(outcome(0.4)), Verdict.FELL),  # better than chance, within the claim
        (case(outcome(3.0)), Verdict.REFUTED),  # at 1 % false alarms over e / 100 are found
        (case(outcome(3.0), claim=Claim(8.0, 1e-4)), Verdict.FELL),  # e^8 allows anything here
        (case(outcome(0.0), control=0.0), Verdict.TOLD),  # the attack finds nobody at all
        (case(outcome(0.0, targets=1, patients=40)), Verdict.TOLD),  # tried too seldom
        (case(outcome(0.0), claim=None), Verdict.TOLD),  # nothing protects, nothing was found
        (case(outcome(2.0), claim=None), Verdict.FELL),
    ],
)
def test_the_verdict_follows_from_chance_claim_and_control(made: Case, said: Verdict) -> None:
    assert verdict(made) is said
    assert found(made).verdict is said
    assert from_json(to_json(found(made))) == found(made)


def test_by_chance_members_are_found_no_oftener_than_stated() -> None:
    error, runs = 0.05, 200
    wrong = sum(
        better_than_chance(outcome(0.0, targets=8, patients=60, seed=s).trials, error)
        for s in range(runs)
    )
    assert wrong <= 25  # 10 are expected at most; beyond 25 lies one in 10^5


def test_a_few_patients_who_are_always_found_are_enough_to_fall() -> None:
    """On average it is chance (Knolle et al. 2026), for these it is certainty."""
    plain = outcome(0.0, targets=16)
    scores = plain.trials.scores.copy()
    scores[:, :8] = np.where(plain.trials.members[:, :8], 0.3, -0.3) * 10
    trials = Trials(scores, plain.trials.members)
    assert better_than_chance(trials)


def test_rates_on_too_few_others_are_not_given() -> None:
    told = found(case(outcome(0.0, targets=1, patients=400)))
    assert told.figures["tpr_at_01_percent"] is None
    assert told.figures["surely_found"] is None
    assert "not measurable" in told.tables[0].rows[-2]


def test_of_a_hospitals_own_patients_no_count_and_no_small_group_is_told() -> None:
    attacked = outcome(0.0, targets=1, patients=437)
    made = found(case(attacked, local=True))
    assert made.local
    words = to_json(made.without_pictures())
    inside = attacked.trials.inside
    for count in (437, inside, 437 - inside, 12, 425):
        assert not re.search(rf"(?<![\d.]){count}(?![\d.])", words), count
    assert made.figures["trials_of_members_at_least"] == floor(inside) == 100
    assert "too few to say" in made.tables[1].rows[0][1]
    assert made.without_pictures().pictures == ()


@pytest.mark.parametrize(
    ("count", "told"), [(0, 0), (1, 1), (9, 5), (10, 10), (49, 20), (50, 50), (1999, 1000)]
)
def test_counts_are_told_by_a_floor(count: int, told: int) -> None:
    assert floor(count) == told


def test_fewer_than_ten_singled_out_patients_of_a_hospital_are_not_counted() -> None:
    attacked = outcome(0.0, targets=10)
    for patient in range(3):
        attacked.trials.scores[:, patient] = np.where(attacked.trials.members[:, patient], 9, -9)
    own, made_up = (found(case(attacked, local=local)) for local in (True, False))
    assert own.figures["surely_found"] is None
    assert own.tables[0].rows[-2][-1].startswith("under 10 patients")
    assert made_up.figures["surely_found"]


def test_the_curve_rises_from_nothing_to_all_and_takes_ties_at_once() -> None:
    members = np.array([[True, False, True, False]])
    false, true = roc(Trials(np.array([[3.0, 1.0, 1.0, 0.0]]), members))
    assert list(zip(false, true, strict=True)) == [(0, 0), (0, 0.5), (0.5, 1), (1, 1)]


def test_the_picture_is_a_png_with_words_beside_it() -> None:
    picture = found(case(outcome(0.0))).pictures[0]
    assert picture.png.startswith(b"\x89PNG")
    assert "AUC" in picture.words
