"""`primia audit ledger`: what a hospital's patients have shown, priced a second and a third time.

The mechanisms come from the ledger's rows, whose chain is checked first. What is audited is the
figure that the ledger gives for them, or the one in a statement that was made from it.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primia.errors import ConfigError, DataError, StateError
from primia.findings import Figure, Finding, Table, Verdict
from primia.privacy import HEAD_NOTE, Head, Ledger, Mechanism
from primia.privacy.second_opinion import epsilon_above, epsilon_below
from primia.storage.snapshot import Snapshot
from primia.types import Digest

_TOLERANCE = 1e-3  # relative: what the grids of the two distributions may differ by
FILE, DATABASE = "ledger.db", "worker.db"
SMALLEST_DELTA = 1e-12


def audit_ledger(
    place: Path, *, delta: float | None = None, statement: Path | None = None
) -> Finding:
    """The finding for the ledger at `place`, a file or a worker's folder; nothing is changed.

    delta: left out, the statement's, else the largest at which a row was charged.
    statement: a `statement.json`, whose ε is then the claim; its signature is not looked at.

    The chain must hold, and still contain what the worker's database beside it, or the statement,
    remembers of it: rows can be cut off at its end without a trace in the rest.
    Raises ConfigError for a wrong path or δ, StateError for a ledger whose chain does not hold,
    DataError for a file that is no statement, or one of an earlier state of the ledger.
    """
    began = time.time()
    file = place / FILE if place.is_dir() else place
    if not file.is_file():
        raise ConfigError(
            f"{file} is not there; name the ledger, or the worker's folder that it lies in"
        )
    claim = None if statement is None else _claim(statement)
    with Ledger(file, disk=Snapshot()) as ledger:
        now = ledger.verify(at_least=_remembered(file.with_name(DATABASE)))
        rows = ledger.rows()
        if claim is not None:
            ledger.verify(at_least=claim.head)
            if claim.head.rows != now.rows:
                raise DataError(
                    f"{statement}: it is about {claim.head.rows} rows, and the ledger has "
                    f"{now.rows} by now; write a new one (primia-worker ledger statement)"
                )
            if delta not in (None, claim.delta):
                raise ConfigError(
                    f"delta {delta}: the statement claims its ε at {claim.delta}; leave --delta out"
                )
            delta = claim.delta
        elif delta is None:
            delta = max((row.delta for row in rows), default=1e-5)
        if not SMALLEST_DELTA <= delta < 1:
            raise ConfigError(
                f"delta {delta}: must be {SMALLEST_DELTA:g} or more and below 1; under that the "
                "accountants cannot be told apart"
            )
        spent = ledger.spent(delta)
        histories = ledger.histories()
    claimed = spent if claim is None else claim.epsilon
    bare = any(m is None for history in histories for m in history)
    known = [[m for m in history if m is not None] for history in histories]
    return _judge(claimed, [] if bare else known, delta, bare, len(rows), began)


@dataclass(frozen=True)
class _Claim:
    """What a statement says: ε spent, infinite where there is no bound, δ, and of which rows."""

    epsilon: float
    delta: float
    head: Head


def _claim(file: Path) -> _Claim:
    try:
        said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["statement"]
        found, chain = said["epsilon_spent"], said["chain"]
        epsilon = math.inf if found is None else float(found)
        if math.isnan(epsilon):
            raise ValueError("its ε is no number")
        return _Claim(
            epsilon, float(said["delta"]), Head(int(chain["rows"]), Digest(chain["head"]))
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as err:
        raise DataError(
            f"{file}: not a ledger statement ({err}); name the statement.json that "
            "primia-worker ledger statement wrote"
        ) from err


def _remembered(database: Path) -> Head | None:
    """Where the ledger ended when this worker last charged; None without its database."""
    if not database.is_file():
        return None
    try:
        with closing(Snapshot().connect(database, 5.0, one_thread=True)) as db:
            row = db.execute("SELECT value FROM meta WHERE key = ?", (HEAD_NOTE,)).fetchone()
    except sqlite3.Error as err:
        raise StateError(f"{database}: cannot be read ({err}); restore it from a backup") from err
    return None if row is None else Head.of(str(row[0]))


def _judge(
    claimed: float,
    histories: list[list[Mechanism]],
    delta: float,
    bare: bool,
    rows: int,
    began: float,
) -> Finding:
    above = max((epsilon_above(h, delta) for h in histories), default=0.0)
    below, sure = _below(histories, delta)
    if bare:
        above = below = math.inf
    # Shared noise is claimed by Rényi divergences alone: less than they give is not proved.
    least = below if sure else above
    refuted = claimed < least * (1 - _TOLERANCE)
    verdict = Verdict.REFUTED if refuted else Verdict.NOT_REFUTED
    if bare and not refuted:
        verdict = Verdict.TOLD
    figures: dict[str, Figure] = {
        "epsilon_claimed": _finite(claimed),
        "epsilon_above": _finite(above),
        "epsilon_below": _finite(below) if sure else None,
        "delta": delta,
        "releases": rows,
    }
    return Finding(
        command="audit ledger",
        title="Audit of the privacy ledger",
        question="Is what the ledger says was spent at least what its releases cost?",
        verdict=verdict,
        answer=_answer(claimed, least, above, bare=bare, refuted=refuted),
        limits=(
            "This prices what was logged. Whether noise and sampling were what was logged is the "
            "question of `primia audit mechanism`; what was never logged is not in it."
        ),
        figures=figures,
        tables=(
            Table(
                ("ε", f"at δ = {delta:g}", "by"),
                (
                    ("claimed", _text(claimed), "the ledger's accountant, or the statement"),
                    ("at least", _text(below) if sure else "-", "optimistic distribution"),
                    ("at most", _text(above), "Rényi divergences, written out"),
                ),
            ),
        ),
        seconds=time.time() - began,
        made_at=began,
    )


def _below(histories: list[list[Mechanism]], delta: float) -> tuple[float, bool]:
    """The largest lower bound of all histories, and whether each of them has one."""
    found = [epsilon_below(h, delta) for h in histories]
    return max((f for f in found if f is not None), default=0.0), None not in found


def _answer(claimed: float, least: float, above: float, *, bare: bool, refuted: bool) -> str:
    if bare and not refuted:
        return "something was released without privacy, so there is no bound, and none is claimed"
    said = f"ε {_text(claimed)} is claimed, at least {_text(least)} was spent"
    if refuted:
        return f"{said}: the claim is too low"
    gap = f"; {100 * (above / claimed - 1):.0f} % more by the looser accountant" if claimed else ""
    return f"{said}{gap if math.isfinite(claimed) else ''}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "no bound"
