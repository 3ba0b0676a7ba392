"""What this hospital is asked to agree to: the coordinator's plan, and its own films as they are.

Nothing is trained and nobody is pinned here; `worker.approval` says whether the work may begin.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from primia.config import StudyPlan, plan_digest
from primia.config.site import SiteConfig
from primia.identity import keyfile
from primia.imaging.dataset import Cohort
from primia.imaging.manifest import Manifest, SiteKey, difference
from primia.imaging.readers import load_cohort
from primia.privacy import Ledger, Members, Overlap
from primia.storage.blobs import Blobs
from primia.types import Digest
from primia.wire.handler import StudyBundle
from worker.approval import Subject, policy_of
from worker.books import check_budget, members_of, site_key, totals
from worker.home import SiteIdentity
from worker.state import WorkerState
from worker.study import checked_plan


@dataclass(frozen=True)
class Offer:
    """A plan that fits this site's caps and what is left of its budget, and the cohort for it.

    overlap: which patients other cohorts of the ledger hold already. spent: ε of the patient of
    this cohort who has shown most; total: the same after all rounds. withdrawn: how many patients
    were withdrawn before the films were read, which may take an hour.
    """

    plan: StudyPlan
    cohort: Cohort
    manifest: Manifest
    members: Members
    subject: Subject
    overlap: Overlap
    spent: float
    total: float
    withdrawn: int


def make_offer(
    folder: Path,
    config: SiteConfig,
    identity: SiteIdentity,
    bundle: StudyBundle,
    state: WorkerState,
    ledger: Ledger,
    reading: AbstractContextManager[None] | None = None,
) -> Offer:
    """Check the plan, read the films, freeze the cohort, see what its patients have left.

    reading: entered while films are read.

    Raises IdentityError, ConfigError, PolicyRefused (see `checked_plan`), BudgetExhausted,
    DataError, StateError.
    """
    plan = checked_plan(bundle, identity, config.caps, state)
    key = site_key(folder, config)
    withdrawn = ledger.withdrawals()
    with reading or nullcontext():
        cohort = read_cohort(folder, config, plan, key, ledger)
    manifest = cohort.manifest
    assert manifest is not None
    subject = Subject(
        plan=plan_digest(plan),
        cohort=manifest.digest,
        policy=policy_of(config),
        films=len(manifest.entries),
        patients=manifest.patients,
    )
    members = members_of(manifest, key)
    overlap = ledger.overlap(members)
    spent, total = totals(ledger, members, plan, identity, config.caps.max_delta)
    check_budget(spent, total, config.caps, plan)
    return Offer(plan, cohort, manifest, members, subject, overlap, spent, total, withdrawn)


def read_cohort(
    folder: Path, config: SiteConfig, plan: StudyPlan, key: SiteKey, ledger: Ledger
) -> Cohort:
    """The films of this site as training takes them, with their manifest, and without the patients
    that were withdrawn. Raises DataError."""
    return load_cohort(
        config.data,
        classes=plan.model.classes,
        input_size=plan.model.input_size,
        min_patients=config.caps.min_patients,
        split_key=keyfile.load(folder / "split.key"),
        site_key=key,
        withdrawn=ledger.withdrawn(),
    )


def keep_manifest(folder: Path, offer: Offer, state: WorkerState) -> None:
    """Store what was approved, so that a later change can be told apart and an auditor can look."""
    stored = Blobs(folder / "manifests").put(offer.manifest.to_bytes())
    state.note(f"manifest {offer.manifest.digest}", stored)


def what_changed(folder: Path, cohort: Digest, offer: Offer, state: WorkerState) -> str | None:
    """How today's cohort differs from an approved one, in counts; None when that is not kept."""
    stored = state.noted(f"manifest {cohort}")
    if stored is None:
        return None
    return difference(Blobs(folder / "manifests").get(Digest(stored)), offer.manifest)
