"""Rounds and sites as plain rows; `html` and `terminal` only set them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from primia.report.record import Attempt, ModelRecord, Scores, StudyRecord
from primia.report.words import NONE, clean, look_up


@dataclass(frozen=True)
class AttemptRow:
    """One attempt, with the scores of the model it made and the ε spent when it committed."""

    label: str  # "3", or "evaluation"
    attempt: Attempt
    tries: int  # attempts at this round so far, this one included
    seconds: float | None
    scores: Scores | None
    epsilon: float | None


@dataclass(frozen=True)
class Cell:
    """One site in one attempt. state: in | lost | void | open | none."""

    state: str
    text: str
    reason: str


@dataclass(frozen=True)
class GridRow:
    """One attempt in the participation grid."""

    label: str
    attempt: int
    outcome: str
    cells: tuple[Cell, ...]


def site_names(record: StudyRecord) -> tuple[str, ...]:
    """Every site that the record speaks of, sorted."""
    names = {s.site for s in record.sites}
    for attempt in record.attempts:
        names |= {*attempt.contributors, *(a.site for a in attempt.absent)}
    return tuple(sorted(names))


def class_names(record: StudyRecord) -> tuple[str, ...]:
    """Names of the classes as the plan gives them; numbers where it gives none."""
    named = tuple(str(c) for c in look_up(record.plan, "model.classes") or ())
    shown = max((len(m.scores.confusion) for m in record.models if m.scores), default=0)
    return named if len(named) >= shown else tuple(f"class {i}" for i in range(shown))


def best_and_last(record: StudyRecord) -> tuple[ModelRecord | None, ModelRecord | None]:
    """The best model and the last one that was evaluated and not rejected; None without one."""
    kept = (m for m in record.models if m.scores and m.accepted is not False)
    scored = sorted(kept, key=lambda m: m.number)
    best = next((m for m in scored if m.number == record.best), None)
    return best, (scored[-1] if scored else None)


def highest_epsilon(record: StudyRecord) -> float | None:
    """The largest ε of any site so far; None without differential privacy."""
    return max((s.epsilon for s in record.sites if s.epsilon is not None), default=None)


def attempt_rows(
    record: StudyRecord, epsilon_by_round: Mapping[int, float]
) -> tuple[AttemptRow, ...]:
    """All attempts in the order they were opened."""
    scores = {m.number: m.scores for m in record.models}
    tries: dict[int, int] = {}
    rows = []
    for attempt in sorted(record.attempts, key=lambda a: a.attempt):
        tries[attempt.number] = tries.get(attempt.number, 0) + 1
        made = attempt.kind != "evaluate" and attempt.outcome == "committed"
        closed = attempt.closed_at
        rows.append(
            AttemptRow(
                label=str(attempt.number) if attempt.kind != "evaluate" else "evaluation",
                attempt=attempt,
                tries=tries[attempt.number],
                seconds=None if closed is None else max(0.0, closed - attempt.opened_at),
                scores=scores.get(attempt.number) if made else None,
                epsilon=epsilon_by_round.get(attempt.number) if made else None,
            )
        )
    return tuple(rows)


def votes_text(attempt: Attempt) -> str:
    """Who accepted the model that the attempt started from, of its contributors."""
    return NONE if attempt.votes is None else f"{attempt.votes}/{len(attempt.contributors)}"


def return_text(attempt: Attempt) -> str:
    """What a vote without a majority led to; empty where there was none."""
    if attempt.returned_to is None:
        return ""
    votes = f"{attempt.votes} of {len(attempt.contributors)} sites accepted"
    return f"returned to the model of round {attempt.returned_to}: {votes}"


def participation(record: StudyRecord, sites: tuple[str, ...]) -> tuple[GridRow, ...]:
    """Who took part in which attempt: one row for each attempt, one cell for each of `sites`."""
    return tuple(
        GridRow(
            label=row.label,
            attempt=row.attempt.attempt,
            outcome=row.attempt.outcome,
            cells=tuple(_cell(row.attempt, site) for site in sites),
        )
        for row in attempt_rows(record, {})
    )


def _cell(attempt: Attempt, site: str) -> Cell:
    for absence in attempt.absent:
        if absence.site == site:
            return Cell("lost", clean(absence.phase), clean(absence.reason))
    match attempt.outcome:
        case "committed" if site in attempt.contributors:
            return Cell("in", "✓", "in the sum")
        case "aborted":
            return Cell("void", "○", "not lost, but the attempt released nothing")
        case "open":
            return Cell("open", "…", "the attempt is open")
        case _:
            return Cell("none", NONE, "not part of this attempt")
