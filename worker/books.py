"""The hospital's privacy ledger and its key: where they lie, and what this worker asks of them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from primia.config.plan import StudyPlan, plan_digest
from primia.config.site import Caps, SiteConfig
from primia.errors import BudgetExhausted, ConfigError, StateError
from primia.identity import keyfile
from primia.imaging.manifest import KEY_BYTES, Manifest, SiteKey
from primia.learning.terms import study_mechanism
from primia.privacy import Ledger, Mechanism, Members, epsilon
from primia.storage.disk import DISK, Disk
from worker.home import SiteIdentity

History = list[Mechanism | None]


def ledger_path(folder: Path, config: SiteConfig) -> Path:
    """Where the ledger is: as the site file says, else in the worker's folder."""
    return config.ledger.path or folder / "ledger.db"


def open_ledger(folder: Path, config: SiteConfig, disk: Disk = DISK) -> Ledger:
    """The ledger of this site. Raises StateError; a missing one is never replaced."""
    path = ledger_path(folder, config)
    if config.ledger.path is not None and not path.exists() and not key_path(path).exists():
        raise StateError(
            f"{path}: the privacy ledger of the site file (ledger.path) is not there; if this "
            "hospital has none yet, run: primia-worker ledger init, else restore it from a backup"
        )
    return Ledger(path, disk=disk)


def init_ledger(folder: Path, config: SiteConfig) -> Path:
    """Make an empty ledger where the site file says, and its key.

    Raises StateError if one is there, also if its key is: then a ledger was there, and a fresh one
    would be a fresh budget.
    """
    path = ledger_path(folder, config)
    for there in (path, key_path(path)):
        if there.exists() and not _half_made(path):
            raise StateError(f"{there} is there already; a ledger is made once for a hospital")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as err:
        raise StateError(f"cannot make {path.parent}: {err.strerror}; check the path") from err
    Ledger(path, create=True).close()
    site_key(folder, config)
    return path


def _half_made(path: Path) -> bool:
    """Whether `init_ledger` was killed before it made anything but the name."""
    return path.exists() and path.stat().st_size == 0 and not key_path(path).exists()


def key_path(ledger: Path) -> Path:
    """Where the key of a ledger's fingerprints is: beside it."""
    return ledger.with_suffix(".key")


def site_key(folder: Path, config: SiteConfig) -> SiteKey:
    """The key of this hospital's fingerprints. Raises StateError, IdentityError (open to others).

    Made when it is not there and the ledger holds no fingerprints yet.
    """
    path = key_path(ledger_path(folder, config))
    if not path.exists():
        with open_ledger(folder, config) as ledger:
            check_key_is_new(path, ledger)
        keyfile.store_once(path, os.urandom(KEY_BYTES))
    keyfile.check_private(path)
    return SiteKey(keyfile.load(path))


def check_key_is_new(path: Path, ledger: Ledger) -> None:
    """Raise StateError when the ledger holds fingerprints, so that a key was here and is lost."""
    if any(row.cohort or row.withdrawn for row in ledger.entries()):
        raise StateError(
            f"{path}: the key of the ledger's fingerprints is missing; restore it from a "
            "backup, because without it nobody knows which patients were charged"
        )


@dataclass(frozen=True)
class Withdrawal:
    """new: it was not recorded before. cohorts: how many in the ledger hold the patient."""

    new: bool
    cohorts: int


def withdraw_patient(folder: Path, config: SiteConfig, name: str, issuer: str) -> Withdrawal:
    """Record that a patient is not used any more; the id itself is kept nowhere.

    issuer: as DICOM files give it beside the id, or empty. Raises ConfigError, StateError.
    """
    if not name.strip():
        raise ConfigError("no patient id; give it as an argument, or - and the id on stdin")
    key = site_key(folder, config)
    patient = key.patient(f"{name.strip()}\x1f{issuer.strip()}" if issuer else name)
    with open_ledger(folder, config) as ledger:
        cohorts = ledger.cohorts_of(patient)
        new = ledger.withdraw(patient, key.name, datetime.now(UTC).isoformat(timespec="seconds"))
    return Withdrawal(new, cohorts)


def members_of(manifest: Manifest, key: SiteKey) -> Members:
    """Whom a cohort trains on, as the ledger knows them."""
    return Members(key.name, manifest.trained())


def totals(
    ledger: Ledger, members: Members | None, plan: StudyPlan, identity: SiteIdentity, delta: float
) -> tuple[float, float]:
    """ε of the patient (of `members`, or of all) who has shown most: now, and after all rounds.

    Once a round of the plan is charged, the rest of it is not added: its own filter decides then.
    """
    now = ledger.spent(delta, members)
    digest = plan_digest(plan)
    if any(r.plan == digest and r.site in (None, identity.site) for r in ledger.rows()):
        return now, now
    whole = study_mechanism(plan)
    return now, max(_price([*history, whole], delta) for history in ledger.histories(members))


def check_budget(now: float, after: float, caps: Caps, plan: StudyPlan) -> None:
    """Raise BudgetExhausted when all rounds of a plan, with what was shown before, pass the cap.

    Asked before anything is trained: a study that cannot be finished here is not begun.
    """
    if plan.privacy == "none" or after <= caps.max_epsilon:
        return
    spent = "without bound" if math.isinf(now) else f"{now:.3f}"
    left = max(0.0, caps.max_epsilon - now)
    raise BudgetExhausted(
        f"privacy budget: {spent} spent by the patient who has shown most, {left:.3f} left of "
        f"{caps.max_epsilon:g} (caps.max_epsilon, at delta {caps.max_delta:g}); all rounds of this "
        f"plan would make it {after:.3f}. Ask for fewer rounds or more noise, or leave these "
        "patients out"
    )


def _price(history: History, delta: float) -> float:
    known = [m for m in history if m is not None]
    return math.inf if len(known) < len(history) else epsilon(known, delta)
