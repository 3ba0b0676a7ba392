"""`primia-worker check` and `budget`: would this site start, and what has it spent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rich.table import Table
from rich.text import Text

from primia.config import load_site
from primia.config.plan import StudyPlan
from primia.config.site import SiteConfig
from primia.errors import PrimiaError
from primia.identity.expiry import days_left, threshold
from primia.learning.terms import is_distributed
from primia.wire.client import FederationClient
from worker.books import open_ledger, site_key
from worker.home import SiteIdentity, load
from worker.offer import read_cohort
from worker.renewal import follow
from worker.state import WorkerState
from worker.study import Peers, checked_plan

T = TypeVar("T")


@dataclass(frozen=True)
class Check:
    """One finding; `detail` is the fact, or cause and remedy."""

    name: str
    ok: bool
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def check_site(folder: Path, config_file: Path) -> list[Check]:
    """Go through what `run` would need, in order; what depends on a failed step is left out."""
    found: list[Check] = []

    def step(name: str, work: Callable[[], T], say: Callable[[T], str]) -> T | None:
        try:
            result = work()
        except PrimiaError as err:
            found.append(Check(name, False, str(err)))
            return None
        found.append(Check(name, True, say(result)))
        return result

    config = step("site file", lambda: load_site(config_file), lambda _: str(config_file))
    identity = step("identity", lambda: load(folder), _describe_identity)
    if identity is None:
        return found
    if config is None:
        return found
    step("ledger", lambda: _verify_ledger(folder, config), lambda n: f"{n} rows, chain holds")
    plan = step("plan", lambda: _fetch_plan(folder, identity, config), _describe)
    if plan is not None:
        step("films", lambda: _films(folder, config, plan), lambda text: text)
    return found


def _verify_ledger(folder: Path, config: SiteConfig) -> int:
    with open_ledger(folder, config) as ledger:
        return ledger.verify().rows


def _fetch_plan(folder: Path, identity: SiteIdentity, config: SiteConfig) -> StudyPlan:
    state = WorkerState(folder)
    link = FederationClient(identity.address, identity.tls())
    try:
        bundle = link.get_study()
        identity = follow(identity, bundle, now=datetime.now(UTC))
        plan = checked_plan(bundle, identity, config.caps, state)
        Peers(identity, state).learn(bundle.sites, plan)
        return plan
    finally:
        link.close()
        state.close()


def _describe_identity(identity: SiteIdentity) -> str:
    days = days_left(identity.certificate, datetime.now(UTC))
    late = "; it is not being renewed: run the worker, or ask the coordinator's operator"
    return (
        f"{identity.site} at {identity.address}; certificate ends in {days:.0f} days, renewed by "
        f"itself while the worker runs{late if threshold(days) is not None else ''}"
    )


def _describe(plan: StudyPlan) -> str:
    noise = ", noise shared with the other sites" if is_distributed(plan) else ""
    groups = plan.aggregation.groups
    sums = f", summed in {groups} groups" if groups > 1 else ""
    return (
        f"{plan.study}: {plan.rounds} rounds, {len(plan.sites)} sites{noise}{sums}, within this "
        "site's caps"
    )


def _films(folder: Path, config: SiteConfig, plan: StudyPlan) -> str:
    with open_ledger(folder, config) as ledger:
        cohort = read_cohort(folder, config, plan, site_key(folder, config), ledger)
    warnings = "".join(f"; {w}" for w in cohort.warnings)
    return (
        f"{len(cohort.train)} films of {cohort.train.patient_count} patients to train on, "
        f"{len(cohort.validation)} of {cohort.validation.patient_count} to validate, "
        f"{cohort.quarantined} quarantined{warnings}"
    )


def checks_table(found: list[Check]) -> Table:
    """The findings for people."""
    table = Table(title="site check", show_lines=False)
    table.add_column("")
    table.add_column("what")
    table.add_column("finding", overflow="fold")
    for check in found:
        mark = Text("ok", style="green") if check.ok else Text("no", style="bold red")
        table.add_row(mark, check.name, Text(check.detail))
    return table


def budget_json(folder: Path, config_file: Path) -> dict[str, Any]:
    """The ledger in figures. ε is null after a release without privacy: there is no bound."""
    config = load_site(config_file)
    caps = config.caps
    load(folder)
    with open_ledger(folder, config) as ledger:
        rows = ledger.rows()
        spent = ledger.spent(caps.max_delta)
    return {
        "epsilon_spent": spent if spent != float("inf") else None,
        "epsilon_cap": caps.max_epsilon,
        "delta": caps.max_delta,
        "charges": [
            {
                "number": r.number,
                "study": r.study,
                "plan": r.plan,
                "round": r.round,
                "attempt": r.attempt,
                "mechanism": None if r.mechanism is None else asdict(r.mechanism),
                "time": r.time,
            }
            for r in rows
        ],
    }


def budget_table(found: dict[str, Any]) -> Table:
    """The ledger for people."""
    spent = found["epsilon_spent"]
    shown = "no bound (a release without privacy)" if spent is None else f"{spent:.3f}"
    table = Table(title=f"ε spent {shown} of {found['epsilon_cap']:g} at δ = {found['delta']:g}")
    for column in ("charge", "time", "plan", "round", "sampling", "noise", "steps"):
        table.add_column(column, justify="right")
    for row in found["charges"]:
        m = row["mechanism"]
        figures = (
            ("-", "-", "-")
            if m is None
            else (f"{m['sampling_rate']:g}", f"{m['noise_multiplier']:g}", str(m["steps"]))
        )
        table.add_row(
            str(row["number"]), row["time"], row["plan"][:12], str(row["round"]), *figures
        )
    return table
