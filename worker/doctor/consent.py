"""The plan against this site's caps, the approval, and what is left of the budget."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

from primia.config.plan import StudyPlan, plan_digest
from primia.config.site import SiteConfig
from primia.errors import PolicyRefused
from primia.imaging.dataset import Cohort
from primia.imaging.manifest import SiteKey
from primia.learning.terms import is_distributed, round_mechanism
from primia.storage.disk import Disk
from primia.types import Digest
from primia.wire.handler import StudyBundle
from worker.approval import Subject, check, policy_of, standing
from worker.books import check_budget, members_of, open_ledger, totals
from worker.doctor.visit import Seen
from worker.home import SiteIdentity
from worker.renewal import follow
from worker.state import WorkerState
from worker.study import Peers, signed_plan
from worker.work import check_plan


def plan(folder: Path, identity: SiteIdentity, bundle: StudyBundle, disk: Disk) -> Seen[StudyPlan]:
    """Its signature, and the keys of this site's peers. Raises IdentityError, PolicyRefused.

    disk: keeps no trace that it was looked at.
    """
    identity = follow(identity, bundle, now=datetime.now(UTC))
    found = signed_plan(bundle, identity)
    state = WorkerState(folder, disk=disk)
    try:
        Peers(identity, state).learn(bundle.sites, found)
    finally:
        state.close()
    noise = ", noise shared with the other sites" if is_distributed(found) else ""
    groups = found.aggregation.groups
    sums = f", summed in {groups} groups" if groups > 1 else ""
    return Seen(
        found,
        f"{found.study}: {found.rounds} rounds, {len(bundle.sites)} of {len(found.sites)} sites "
        f"enrolled{noise}{sums}",
    )


def caps(
    folder: Path, config: SiteConfig, identity: SiteIdentity, found: StudyPlan, disk: Disk
) -> Seen[None]:
    """The plan against what this site allows, and has worked for. Raises PolicyRefused."""
    cost = check_plan(found, config.caps, identity.site)
    state = WorkerState(folder, disk=disk)
    try:
        state.check_plan(plan_digest(found))
    finally:
        state.close()
    price = "no bound, as this site allows" if cost is None else f"ε {cost:.3f} for a patient"
    return Seen(None, f"the plan keeps within them: {price}")


def approval(
    folder: Path,
    config: SiteConfig,
    plan: StudyPlan,
    films: Cohort | None,
    disk: Disk,
) -> Seen[None]:
    """Whether people agreed to this plan and these films. Raises PolicyRefused.

    films: None when there was no time to read them; then the plan and the caps are compared alone.
    """
    state = WorkerState(folder, disk=disk)
    try:
        decisions = state.decisions()
        approved = next((d.cohort for d in reversed(decisions) if d.approved), Digest(""))
        manifest = None if films is None else films.manifest
        subject = Subject(
            plan=plan_digest(plan),
            cohort=approved if manifest is None else manifest.digest,
            policy=policy_of(config),
            films=0 if manifest is None else len(manifest.entries),
            patients=0 if manifest is None else manifest.patients,
        )
        check(state, subject)
        by = standing(decisions, subject).approved_by
    finally:
        state.close()
    compared = "this plan and these films" if manifest else "this plan (films not compared)"
    return Seen(None, f"{', '.join(by)} approved {compared}")


def budget(
    folder: Path,
    config: SiteConfig,
    identity: SiteIdentity,
    plan: StudyPlan,
    films: tuple[Cohort, SiteKey] | None,
    disk: Disk,
) -> Seen[None]:
    """What the patient who has shown most has left for this plan. Raises BudgetExhausted.

    films: None when there was no time to read them; then all patients of the ledger count.
    """
    caps = config.caps
    members = None
    if films is not None and films[0].manifest is not None:
        members = members_of(films[0].manifest, films[1])
    with open_ledger(folder, config, disk) as ledger:
        now, after = totals(ledger, members, plan, identity, caps.max_delta)
        check_budget(now, after, caps, plan)
        one_round = round_mechanism(plan)
        ours = {r.round for r in ledger.rows() if r.plan == plan_digest(plan)}
        if one_round is not None and len(ours) < plan.rounds:
            ledger.afford(one_round, caps.max_epsilon, caps.max_delta, members)
    if plan.privacy == "none":
        return Seen(None, "the plan trains without privacy, as this site allows: there is no bound")
    if math.isinf(now):
        raise PolicyRefused(
            "a release without privacy is in the ledger, so these patients have no bound any more; "
            "leave them out of studies with privacy"
        )
    then = "" if after == now else f", {after:.3f} after all rounds"
    return Seen(
        None, f"ε {now:.3f} of {caps.max_epsilon:g} spent by the patient who has shown most{then}"
    )
