"""The six-line contract, checked on the files that a federation of real daemons left behind.

1. Committed rounds are 1..R, no gap, no repeat. 2. A committed sum is that over exactly the sites
in its record. 3. A ledger is at least what an independent accountant makes of the updates that
left. 4. For one (study, round, kind) a site emits at most one distinct update. 5. Every chain
verifies. 6. A round commits with at least its quorum, or leaves nothing but an abort record.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant

from coordinator.state import CoordinatorState
from primia.config import plan_from_canonical
from primia.config.plan import StudyPlan
from primia.federation.optimiser import pack_weights, step, unpack_state
from primia.privacy.ledger import Ledger
from primia.storage.audit_log import FILE, read
from primia.storage.blobs import Blobs
from primia.study import contribution, optimiser
from primia.types import sha256
from tests.processes.federation import Federation

KEPT = "kept"
"""Folder of a federation with stored updates that its workers may have deleted since."""


def rows(file: Path, query: str, *arguments: object) -> list[sqlite3.Row]:
    """Rows of a daemon's database, read beside it."""
    db = sqlite3.connect(file, timeout=30)
    try:
        db.row_factory = sqlite3.Row
        return list(db.execute(query, arguments))
    finally:
        db.close()


def check(federation: Federation, *, finished: bool = True, sums: int = 0) -> None:
    """Raise AssertionError where the history breaks the contract.

    finished: all rounds must be there. sums: at least so many sums must have been recomputed.
    """
    state = CoordinatorState(federation.home)
    try:
        study = state.study()
        assert study is not None
        plan = plan_from_canonical(study.plan)
        attempts = state.attempts()
        models = {m.number: m for m in state.models()}
    finally:
        state.close()
    committed = [a for a in attempts if a.outcome == "committed"]
    numbers = [a.round.number for a in committed]
    assert numbers == list(range(1, len(numbers) + 1)), numbers
    if finished:
        assert numbers[: plan.rounds] == list(range(1, plan.rounds + 1)), numbers
        assert all(a.outcome != "open" for a in attempts)
    for attempt in attempts:
        if attempt.outcome == "committed":
            assert len(attempt.contributors) >= plan.schedule.quorum, attempt
        elif attempt.outcome == "aborted":
            assert attempt.reason, attempt
            assert not attempt.contributors, attempt
    recomputed = sum(
        _check_sum(federation, plan, study.parameters, a, models)
        for a in committed
        if a.round.kind.value != "evaluate"
    )
    assert recomputed >= sums, f"{recomputed} sums could be recomputed, not {sums}"
    _check_audit_of_lead(federation, committed)
    for site in federation.sites:
        if (federation.folder / site / "worker.db").exists():
            _check_audit_of_site(federation.folder / site)
            _check_site(federation.folder / site, plan, site, committed)


def _check_audit_of_lead(federation: Federation, committed: list[Any]) -> None:
    """Its chain verifies, and every attempt that counts is on it, with its sites."""
    lines, _ = read(federation.home / FILE)
    on_log = {
        x.fields["attempt"]: tuple(x.fields["sites"]) for x in lines if x.event == "round_committed"
    }
    for attempt in committed:
        assert on_log.get(attempt.round.attempt) == tuple(attempt.contributors), attempt


def _check_audit_of_site(folder: Path) -> None:
    """Its chain verifies; no update of a training round left before its charge was on it."""
    lines, _ = read(folder / FILE)
    made = {
        row["digest"]
        for row in rows(folder / "worker.db", "SELECT digest FROM updates WHERE kind <> 'evaluate'")
    }
    charged: set[str] = set()
    for line in lines:
        if line.event == "charged":
            charged.add(line.fields["update"])
        if line.event == "update_sent" and line.fields["update"] in made:
            assert line.fields["update"] in charged, line


def _check_site(folder: Path, plan: StudyPlan, site: str, committed: list[Any]) -> None:
    made = rows(
        folder / "worker.db",
        # One that is retired is never offered again; what takes its place is charged, too.
        "SELECT * FROM updates WHERE kind <> 'evaluate' AND retired_at IS NULL",
    )
    by_round: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
    for row in made:
        by_round[row["number"], row["kind"]].add(row["digest"])
    if _noise_is_the_sites(plan):
        assert all(len(digests) == 1 for digests in by_round.values()), dict(by_round)
    with Ledger(folder / "ledger.db") as ledger:
        ledger.verify()
        charges = ledger.rows()
        delta = 1e-5 if plan.privacy == "none" else plan.privacy.delta
        spent = ledger.spent(delta)
    assert len({c.update for c in charges}) == len(charges), "an update was charged twice"
    charged = {c.round for c in charges}
    took_part = {
        a.round.number
        for a in committed
        if site in a.contributors and a.round.kind.value != "evaluate"
    }
    assert took_part <= charged, f"{site} gave {took_part}, and was charged for {charged}"
    if _noise_is_the_sites(plan):
        assert spent >= _independent_epsilon(plan, len(took_part)) - 1e-6


def _noise_is_the_sites(plan: StudyPlan) -> bool:
    return plan.privacy != "none" and plan.privacy.noise == "site"


def _independent_epsilon(plan: StudyPlan, rounds: int) -> float:
    """By dp-accounting alone, from the plan's own figures."""
    if rounds == 0 or plan.privacy == "none":
        return 0.0
    step_event = dp_event.PoissonSampledDpEvent(
        plan.training.patient_sampling_rate,
        dp_event.GaussianDpEvent(float(plan.privacy.noise_multiplier or 0.0)),
    )
    accountant = PLDAccountant()
    accountant.compose(step_event, rounds * plan.training.local_steps)
    # The product rounds its discretisation up; both are bounds of the same quantity.
    return float(accountant.get_epsilon(plan.privacy.delta)) * 0.999


def _check_sum(
    federation: Federation, plan: StudyPlan, parameters: int, attempt: Any, models: dict[int, Any]
) -> bool:
    """The model that this round made, from the sites' stored updates; False if some are gone."""
    number = attempt.round.number
    made = contribution(plan, parameters)
    total = np.zeros(made.layout.length, np.uint32)
    for site in attempt.contributors:
        folder = federation.folder / site
        found = rows(
            folder / "worker.db",
            "SELECT digest FROM updates WHERE number = ? AND kind = ? ORDER BY id DESC",
            number, attempt.round.kind.value,
        )  # fmt: skip
        digest = found[0]["digest"]
        places = [folder / "blobs" / digest, federation.folder / KEPT / digest]
        blob = next((place for place in places if place.exists()), None)
        if blob is None:
            return False
        total += np.frombuffer(blob.read_bytes(), "<u4")
    for vector in made.layout.vectors:
        if vector.bits < 32:
            total[made.layout.slice(vector.name)] &= (1 << vector.bits) - 1
    aggregate = made.decode(total, contributors=len(attempt.contributors))
    blobs = Blobs(federation.home / "blobs")
    before = unpack_state(blobs.get(models[number - 1].state))
    after = step(before, aggregate.mean_update, optimiser(plan))
    expected = sha256(pack_weights(after.weights))
    assert models[number].digest == expected, f"round {number}: the sum is not its sites'"
    return True


def shown(federation: Federation) -> str:
    """The history in a few lines, for a failing test's message."""
    found = rows(federation.home / "coordinator.db", "SELECT * FROM attempts ORDER BY attempt")
    return "\n".join(
        f"attempt {r['attempt']} round {r['number']} {r['kind']} {r['outcome']} {r['reason']}"
        for r in found
    )
