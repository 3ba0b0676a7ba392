"""An approval holds for what it names, and for nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from primia.config.site import Caps, SiteConfig
from primia.errors import ConfigError, PolicyRefused
from primia.protocol.messages import RoundId, RoundKind
from primia.storage.book import Book
from primia.types import Digest, sha256
from worker.approval import (
    NotApproved,
    Person,
    Subject,
    approve,
    check,
    policy_of,
    refuse,
    standing,
)
from worker.state import _MIGRATIONS, WorkerState

STEWARD = Person("Ada", "data steward", "ada")
OFFICER = Person("Grace", "data protection officer", "grace")


def policy(approvers: int = 1, **caps: Any) -> str:
    data = {
        "data": {"kind": "npz", "path": "a.npz"},
        "caps": {"max_epsilon": 8.0, "max_delta": 1e-4, **caps},
        "approval": {"approvers": approvers},
    }
    return policy_of(SiteConfig.model_validate_json(json.dumps(data)))


SUBJECT = Subject(sha256(b"plan"), sha256(b"cohort"), policy(), films=120, patients=60)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[WorkerState]:
    made = WorkerState(tmp_path)
    yield made
    made.close()


def test_nothing_is_approved_before_somebody_says_so(state: WorkerState) -> None:
    with pytest.raises(NotApproved, match=r"nobody here has approved.*plan show"):
        check(state, SUBJECT)
    assert approve(state, SUBJECT, STEWARD).missing == 0
    check(state, SUBJECT)


def test_an_approval_outlives_the_process(state: WorkerState, tmp_path: Path) -> None:
    approve(state, SUBJECT, STEWARD)
    state.close()
    again = WorkerState(tmp_path)
    check(again, SUBJECT)
    (decision,) = again.decisions()
    assert (decision.name, decision.role, decision.account) == ("Ada", "data steward", "ada")
    assert decision.made_at > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": sha256(b"other")}, "the plan is not the one"),
        (
            {"cohort": sha256(b"other"), "films": 121},
            r"cohort changed.*120 films of 60 patients\) then.*121 films of 60 patients\) now",
        ),
        ({"policy": policy(max_epsilon=8.5)}, "max_epsilon 8.0 then, 8.5 now"),
        ({"policy": policy(max_delta=1e-3)}, "max_delta"),
        ({"policy": policy(min_patients=2)}, "min_patients"),
        ({"policy": policy(allow_shared_noise=True)}, "allow_shared_noise"),
        ({"policy": policy(allow_no_privacy=True)}, "allow_no_privacy"),
    ],
)
def test_any_change_voids_the_approval_and_says_what_changed(
    state: WorkerState, change: dict[str, Any], message: str
) -> None:
    approve(state, SUBJECT, STEWARD)
    with pytest.raises(NotApproved, match=message):
        check(state, replace(SUBJECT, **change))
    check(state, SUBJECT)  # and back again


def test_stricter_caps_keep_the_approval(state: WorkerState) -> None:
    approve(state, SUBJECT, STEWARD)
    stricter = policy(max_epsilon=2.0, max_delta=1e-6, min_cohort=5, min_patients=100)
    check(state, replace(SUBJECT, policy=stricter))


def test_every_cap_is_looked_at_when_caps_are_compared() -> None:
    from primia.config.site import loosened

    strict: dict[str, Any] = {
        "max_epsilon": 1.0, "max_delta": 1e-6, "min_cohort": 9, "min_patients": 99,
        "allow_no_privacy": False, "allow_shared_noise": False,
        "max_rounds": 5, "hours": "20:00-06:00", "max_memory_gib": 2.0,
    }  # fmt: skip
    loose: dict[str, Any] = {
        "max_epsilon": 2.0, "max_delta": 1e-5, "min_cohort": 8, "min_patients": 98,
        "allow_no_privacy": True, "allow_shared_noise": True,
        "max_rounds": None, "hours": None, "max_memory_gib": 3.0,
    }  # fmt: skip
    assert strict.keys() == Caps.model_fields.keys()
    for key in strict:
        assert loosened(Caps(**strict), Caps(**{**strict, key: loose[key]})), key
        assert not loosened(Caps(**{**strict, key: loose[key]}), Caps(**strict)), key


def test_a_refusal_takes_everything_back_until_somebody_approves_anew(state: WorkerState) -> None:
    approve(state, SUBJECT, STEWARD)
    refuse(state, OFFICER, "the ethics vote is missing")
    with pytest.raises(NotApproved, match=r"refused by Grace.*the ethics vote is missing"):
        check(state, SUBJECT)
    approve(state, SUBJECT, OFFICER)
    check(state, SUBJECT)


def test_two_approvers_are_two_names(state: WorkerState) -> None:
    both = replace(SUBJECT, policy=policy(approvers=2))
    assert approve(state, both, STEWARD).missing == 1
    with pytest.raises(NotApproved, match="approved by Ada; a second person"):
        check(state, both)
    with pytest.raises(PolicyRefused, match="has approved this already"):
        approve(state, both, replace(STEWARD, name="  aDA "))
    with pytest.raises(PolicyRefused, match="has approved this already"):
        approve(state, both, replace(STEWARD, name="A\u200bda"))
    assert approve(state, both, OFFICER).approved_by == ("Grace", "Ada")
    check(state, both)


def test_an_approval_given_when_two_were_asked_for_is_not_enough_once_one_is_asked_for(
    state: WorkerState,
) -> None:
    approve(state, replace(SUBJECT, policy=policy(approvers=2)), STEWARD)
    with pytest.raises(NotApproved, match="approvers 2 then, 1 now"):
        check(state, SUBJECT)


def test_an_approval_of_before_a_refusal_does_not_count_with_one_of_after(
    state: WorkerState,
) -> None:
    both = replace(SUBJECT, policy=policy(approvers=2))
    approve(state, both, STEWARD)
    refuse(state, OFFICER, "")
    assert approve(state, both, OFFICER).missing == 1


def test_a_decision_needs_a_name() -> None:
    with pytest.raises(ConfigError, match="--as NAME"):
        Person(" ", "", "root")


def test_a_policy_that_cannot_be_read_allows_nothing(state: WorkerState) -> None:
    approve(state, SUBJECT, STEWARD)
    decisions = [
        replace(d, policy='{"approvers": 1, "caps": {"who_knows": 1}}') for d in state.decisions()
    ]
    assert standing(decisions, SUBJECT).missing == 1


def test_a_folder_that_has_worked_for_a_plan_approves_no_other(state: WorkerState) -> None:
    approve(state, SUBJECT, STEWARD)
    other = replace(SUBJECT, plan=sha256(b"other"))
    assert approve(state, other, STEWARD).missing == 0  # the lead corrected it before the start
    with pytest.raises(NotApproved, match="the plan is not the one"):
        check(state, SUBJECT)
    round_id = RoundId(other.plan, 1, 1, RoundKind.TRAIN, Digest("c" * 64))
    state.add_update(round_id, Digest("d" * 64))
    with pytest.raises(PolicyRefused, match="stays with the plan"):
        approve(state, SUBJECT, STEWARD)


def test_a_database_of_before_approvals_opens_and_has_none(tmp_path: Path) -> None:
    before = next(i for i, script in enumerate(_MIGRATIONS) if "TABLE decisions" in script)
    (tmp_path / "old").mkdir()
    Book(tmp_path / "old" / "worker.db", _MIGRATIONS[:before]).close()
    again = WorkerState(tmp_path / "old")
    assert again.decisions() == []
    approve(again, SUBJECT, STEWARD)
    check(again, SUBJECT)
