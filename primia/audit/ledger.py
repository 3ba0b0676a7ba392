"""`primia audit ledger`: what a hospital's patients have shown, priced a second and a third time.

The mechanisms come from the ledger's rows, whose chain is checked first. What is audited is the
figure that the ledger gives for them, or the one in a statement that was made from it.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from primia.errors import ConfigError, DataError
from primia.findings import Figure, Finding, Table, Verdict
from primia.privacy import Ledger, Mechanism
from primia.privacy.second_opinion import epsilon_above, epsilon_below
from primia.storage.snapshot import Snapshot

_TOLERANCE = 1e-3  # relative: what the grids of the two distributions may differ by
FILE = "ledger.db"


def audit_ledger(
    place: Path, *, delta: float | None = None, statement: Path | None = None
) -> Finding:
    """The finding for the ledger at `place`, a file or a worker's folder; nothing is changed.

    delta: left out, the statement's, else the largest at which a row was charged.
    statement: a `statement.json`, whose ε is then the claim.

    Raises ConfigError for a wrong path or δ, StateError for a ledger whose chain does not hold,
    DataError for a file that is no statement.
    """
    began = time.time()
    file = place / FILE if place.is_dir() else place
    if not file.is_file():
        raise ConfigError(
            f"{file} is not there; name the ledger, or the worker's folder that it lies in"
        )
    claim = None if statement is None else _claim(statement)
    with Ledger(file, disk=Snapshot()) as ledger:
        ledger.verify()
        rows = ledger.rows()
        if delta is None:
            delta = max((row.delta for row in rows), default=1e-5) if claim is None else claim[1]
        if not 0 < delta < 1:
            raise ConfigError(f"delta {delta}: must lie between 0 and 1")
        spent = ledger.spent(delta)
        histories = ledger.histories()
    claimed = spent if claim is None else claim[0]
    bare = any(m is None for history in histories for m in history)
    known = [[m for m in history if m is not None] for history in histories]
    return _judge(claimed, [] if bare else known, delta, bare, len(rows), began)


def _claim(file: Path) -> tuple[float, float]:
    """ε spent and δ of a statement; ε is infinite where it says that there is no bound."""
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found = data["epsilon_spent"]
        return math.inf if found is None else float(found), float(data["delta"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise DataError(
            f"{file}: not a ledger statement ({err}); name the statement.json that "
            "primia-worker ledger statement wrote"
        ) from err


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
