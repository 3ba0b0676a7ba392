"""Whether films can be read here, and what cohort they make."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from primia.config.plan import StudyPlan
from primia.config.site import DataSource, SiteConfig
from primia.errors import DataError
from primia.identity import keyfile
from primia.imaging.dataset import Cohort
from primia.imaging.dicom import missing_decoders
from primia.imaging.manifest import KEY_BYTES, SiteKey
from primia.imaging.pictures import Defect
from primia.imaging.quarantine import any_dicom
from primia.imaging.sample import sample
from primia.imaging.sandbox import Sandbox
from primia.storage.disk import Disk
from worker.books import check_key_is_new, key_path, ledger_path, open_ledger
from worker.doctor.visit import Seen
from worker.offer import read_cohort

SAMPLE = 20
SIZE = 64  # pixels; what decoding costs does not depend on it
WALL_S = 10.0  # for one film; a sound one takes less than one

_NAMES = "primia data check SITE --plan PLAN --rejects names the files"


def decoders(source: DataSource) -> Seen[None]:
    """What DICOM films may need, where there are some. Raises DataError."""
    if source.kind == "npz":
        return Seen(None, "not needed, the films are in an NPZ")
    missing = missing_decoders()
    if not missing:
        return Seen(None, "every transfer syntax that primia reads can be decoded")
    films, _ = sample(source, SAMPLE)
    if any_dicom(path for path, _ in films):
        raise DataError(f"films of these kinds would be left out: {', '.join(missing)}")
    return Seen(None, "no DICOM films here, and not all decoders are installed")


def samples(source: DataSource) -> Seen[None]:
    """Some films through the sandbox, as all go through it for training. Raises DataError."""
    if source.kind == "npz":
        return Seen(None, "films of an NPZ are read together, see cohort")
    films, listed = sample(source, SAMPLE)
    with Sandbox(wall_s=WALL_S) as sandbox:
        defects = [p for p in sandbox.decode(films, SIZE) if isinstance(p, Defect)]
    unfit = sum(d.unfit for d in defects)
    unreadable = len(defects) - unfit
    reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(map(str, defects)).most_common())
    if unreadable > source.max_unreadable * len(films) or (
        unreadable and source.unreadable == "stop"
    ):
        raise DataError(
            f"{unreadable} of {len(films)} films cannot be read ({reasons}); export them again "
            f"or install what they need ({_NAMES})"
        )
    if unfit == len(films):
        raise DataError(
            f"none of {len(films)} films is a frontal chest film by its tags ({reasons}); check "
            "data.path, or keep films by a column override in a CSV"
        )
    concern = f"{len(defects)} of {len(films)} films would be left out ({reasons}); {_NAMES}"
    return Seen(None, f"{len(films)} of {listed} films can be read", concern if unreadable else "")


def cohort(
    folder: Path, config: SiteConfig, plan: StudyPlan, disk: Disk
) -> Seen[tuple[Cohort, SiteKey]]:
    """All films as training takes them. Raises DataError, StateError."""
    with open_ledger(folder, config, disk) as ledger:
        key = _key(folder, config, disk)
        found = read_cohort(folder, config, plan, key, ledger)
    says = (
        f"{len(found.train)} films of {found.train.patient_count} patients to train on, "
        f"{len(found.validation)} of {found.validation.patient_count} to validate, "
        f"{found.quarantined} left out"
    )
    return Seen((found, key), says, "; ".join(found.warnings))


def _key(folder: Path, config: SiteConfig, disk: Disk) -> SiteKey:
    """The key of this site's fingerprints; before the first approval, one that is thrown away."""
    path = key_path(ledger_path(folder, config))
    if path.exists():
        return SiteKey(keyfile.load(path))  # who may read it was asked before
    with open_ledger(folder, config, disk) as ledger:
        check_key_is_new(path, ledger)
    return SiteKey(os.urandom(KEY_BYTES))
