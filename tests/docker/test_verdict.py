"""What makes the simulation fail: read from made-up results."""

from __future__ import annotations

from typing import Any

import pytest
from verdict import broken_promises

SITES = ["a", "b", "c"]


def attempt(number: int, outcome: str = "committed", kind: str = "train", **more: Any) -> Any:
    return {"number": number, "kind": kind, "outcome": outcome, "contributors": SITES} | more


def result(**changes: Any) -> dict[str, Any]:
    return {
        "state": "finished",
        "plan": {"rounds": 2, "sites": SITES},
        "attempts": [attempt(1), attempt(2), attempt(3, kind="evaluate")],
        "sites": [{"site": s, "rounds_charged": 2} for s in SITES],
    } | changes


def ledgers(*rounds: int) -> dict[str, list[dict[str, int]]]:
    return {s: [{"round": r} for r in rounds] for s in SITES}


def test_every_round_committed_and_charged_once_is_well() -> None:
    assert broken_promises(result(), ledgers(1, 2)) == []


@pytest.mark.parametrize(
    ("changes", "rounds", "told"),
    [
        ({"state": "stopped"}, (1, 2), "the study is stopped"),
        ({"attempts": [attempt(1)]}, (1, 2), "committed rounds: [1]"),
        ({"attempts": [attempt(1), attempt(1), attempt(2)]}, (1, 2), "committed rounds: [1, 1, 2]"),
        ({}, (1, 2, 2), "round 2 is charged 2 times"),
        ({}, (1,), "in the sum of round 2 without a charge"),
    ],
)
def test_what_is_wrong_is_named(
    changes: dict[str, Any], rounds: tuple[int, ...], told: str
) -> None:
    found = broken_promises(result(**changes), ledgers(*rounds))
    assert any(told in text for text in found), found


def test_a_round_that_was_trained_anew_may_be_charged_anew() -> None:
    again = result(attempts=[attempt(1, "aborted"), attempt(1, kind="retrain"), attempt(2)])
    assert broken_promises(again, ledgers(1, 1, 2)) == []
    assert broken_promises(again, ledgers(1, 1, 1, 2))


def test_a_hospital_without_a_ledger_is_noticed() -> None:
    assert broken_promises(result(), {"a": ledgers(1, 2)["a"], "b": ledgers(1, 2)["b"]})
