"""What a study asks of this hospital, on one page and in plain words."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from primia.annex.content import what_leaves
from primia.config import load_site
from primia.config.plan import StudyPlan
from primia.config.site import SiteConfig
from primia.errors import PolicyRefused
from primia.learning.terms import is_distributed, round_mechanism, study_mechanism
from primia.privacy import epsilon
from primia.types import Digest, SiteId
from primia.wire.client import FederationClient
from worker.approval import Person, Standing, approve, standing
from worker.books import open_ledger
from worker.home import load
from worker.offer import Offer, keep_manifest, make_offer, what_changed
from worker.state import WorkerState


@dataclass(frozen=True)
class Page:
    """The content, as pairs of a heading and its lines; and what an approval would name."""

    offer: Offer
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    epsilon_plan: float | None
    epsilon_spent: float | None
    epsilon_cap: float
    standing: Standing

    @property
    def plan_digest(self) -> Digest:
        """Of the plan that is shown."""
        return self.offer.subject.plan

    @property
    def cohort_digest(self) -> Digest:
        """Of the cohort that is shown."""
        return self.offer.subject.cohort

    def as_dict(self) -> dict[str, Any]:
        """For `--json`. It holds counts of this site."""
        return {
            "plan": self.plan_digest,
            "cohort": self.cohort_digest,
            "epsilon_of_the_plan": self.epsilon_plan,
            "epsilon_spent": self.epsilon_spent,
            "epsilon_cap": self.epsilon_cap,
            "approval": asdict(self.standing),
            "page": {heading: list(lines) for heading, lines in self.lines},
        }

    def shown(self, folder: Path) -> None:
        """Remember that this was read, so that an approval cannot be for something else."""
        state = WorkerState(folder)
        try:
            state.note("shown", _name(self.offer))
        finally:
            state.close()


def read_page(folder: Path, config_file: Path) -> Page:
    """Fetch the plan, read the films, count what is spent. Raises what `make_offer` does."""
    config = load_site(config_file)
    identity = load(folder)
    state = WorkerState(folder)
    link = FederationClient(identity.address, identity.tls())
    try:
        with open_ledger(folder, config) as ledger:
            offer = make_offer(folder, config, identity, link.get_study(), state, ledger)
        found = standing(state.decisions(), offer.subject)
        changed = _changed(folder, offer, state) if found.missing else ()
    finally:
        link.close()
        state.close()
    whole = study_mechanism(offer.plan)
    asked = None if whole is None else epsilon([whole], config.caps.max_delta)
    before = offer.spent if math.isfinite(offer.spent) else None
    lines = (
        *_about_the_plan(offer.plan, identity.site, identity.address),
        ("what it costs a patient", _cost(config, offer, asked)),
        ("asks for trust", _trust(offer.plan)),
        ("films of this hospital", _films(offer)),
        ("digests", (f"plan    {offer.subject.plan}", f"cohort  {offer.subject.cohort}")),
        ("approval", (*_approval(found), *changed)),
    )
    return Page(offer, lines, asked, before, config.caps.max_epsilon, found)


def approve_page(folder: Path, page: Page, by: Person) -> Standing:
    """Record the approval of what `page` shows; see `worker.approval.approve`.

    Raises PolicyRefused when another plan or cohort was read with `plan show` before.
    """
    state = WorkerState(folder)
    try:
        read = state.noted("shown")
        if read not in (None, _name(page.offer)):
            raise PolicyRefused(
                "plan or cohort changed since they were last shown; read them again: "
                "primia-worker plan show"
            )
        keep_manifest(folder, page.offer, state)
        return approve(state, page.offer.subject, by)
    finally:
        state.close()


def render(page: Page) -> RenderableType:
    """The page for people."""
    plan = page.offer.plan
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 1, 0))
    table.add_column(style="bold", width=20)
    table.add_column(overflow="fold")
    for heading, lines in page.lines:
        table.add_row(heading, Text("\n".join(lines)))
    return Group(Text(f"The study {plan.study}\n", style="bold"), table)


def _name(offer: Offer) -> str:
    return f"{offer.subject.plan} {offer.subject.cohort}"


def _changed(folder: Path, offer: Offer, state: WorkerState) -> tuple[str, ...]:
    approvals = [d for d in state.decisions() if d.approved]
    if not approvals or approvals[-1].cohort == offer.subject.cohort:
        return ()
    changed = what_changed(folder, Digest(approvals[-1].cohort), offer, state)
    return () if changed is None else (f"since the last approval: {changed}",)


def _about_the_plan(
    plan: StudyPlan, me: SiteId, address: str
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    names = [f"{name} (this hospital)" if name == me else name for name in plan.sites]
    shown = [*names[:12], f"and {len(names) - 12} more"] if len(names) > 12 else names
    model = plan.model
    return (
        ("purpose", (plan.purpose or "not stated; ask the lead",)),
        ("asked by", (f"the coordinator at {address}",)),
        (f"{len(plan.sites)} hospitals", (", ".join(shown),)),
        (
            "what is trained",
            (
                f"{model.name} on films of {model.input_size} x {model.input_size} pixels, to tell "
                f"{', '.join(model.classes)}",
            ),
        ),
        (
            "how long",
            (f"{plan.rounds} rounds of {plan.training.local_steps} steps, and an evaluation",),
        ),
        ("what leaves", what_leaves(plan)),
    )


def _cost(config: SiteConfig, offer: Offer, asked: float | None) -> tuple[str, ...]:
    caps, seen = config.caps, offer.overlap
    if asked is None:
        return ("no bound: the plan trains without differential privacy",)
    lines = [f"ε = {asked:.3f} at δ = {caps.max_delta:g} for all rounds, as computed here"]
    if math.isinf(offer.spent):
        lines.append("no bound with what was released before without differential privacy")
    else:
        lines.append(
            f"the patient who has shown most: {offer.spent:.3f} spent before, {offer.total:.3f} "
            f"after it, of {caps.max_epsilon:g}"
        )
    if seen.known:
        lines.append(f"{seen.known} of the patients were trained on before")
    if seen.renamed:
        lines.append(
            f"warning: {seen.renamed} patients have films that were trained on before under "
            "another id; each counts as one person with that id"
        )
    return tuple(lines)


def _trust(plan: StudyPlan) -> tuple[str, ...]:
    found = []
    if plan.privacy == "none":
        found.append("privacy: none - nothing limits what the model shows of a patient")
    if is_distributed(plan):
        found.append(
            "noise: distributed - the cost above holds while at most "
            f"{plan.colluding_sites} hospitals pool what they know with the coordinator"
        )
    if plan.aggregation.groups > 1:
        found.append(
            f"groups: {plan.aggregation.groups} - each group's sum becomes known, so this hospital "
            "hides among its group, not among all"
        )
    mechanism = round_mechanism(plan)
    if mechanism is not None:
        found.append(
            f"noise multiplier {mechanism.noise_multiplier:g}, patients drawn at rate "
            f"{mechanism.sampling_rate:g}"
        )
    return tuple(found)


def _films(offer: Offer) -> tuple[str, ...]:
    cohort = offer.cohort
    return (
        f"{len(cohort.train)} films of {cohort.train.patient_count} patients are trained on",
        f"{len(cohort.validation)} films of {cohort.validation.patient_count} patients test it",
        f"{cohort.quarantined} films cannot be read and are left out",
        *cohort.warnings,
    )


def _approval(found: Standing) -> tuple[str, ...]:
    if not found.missing:
        return (f"approved by {', '.join(found.approved_by)}",)
    return (found.why,)
