"""How good a study's model is on this hospital's own films: measured here, kept here.

STATE/quality.json holds it, with every digit. What others may get is made from it by a person's
decision alone, rounded and without small counts, and is noted in the audit log.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from primia.alone import OnRound
from primia.config import StudyPlan, load_site, plan_digest
from primia.config.site import SiteConfig
from primia.config.strict import validate
from primia.errors import ConfigError, PolicyRefused, StateError
from primia.identity import keyfile
from primia.imaging.dataset import Cohort
from primia.inference.trained import read_export
from primia.learning.models import FloatVector, flatten
from primia.learning.parallel import use_threads
from primia.report.quality import SiteQuality, from_json, shareable, to_json
from primia.site_quality import REPLICATES, SEED, Alone, site_quality
from primia.types import sha256
from worker.approval import Person, Subject, check, policy_of
from worker.books import open_ledger, site_key
from worker.devices import devices_of
from worker.home import load
from worker.limits import check_hours, hold_memory
from worker.offer import read_cohort
from worker.state import WorkerState

FILE = "quality.json"
MODELS = ("model-best.safetensors", "model-last.safetensors")


@dataclass(frozen=True)
class Wishes:
    """What the command line asked for. model: None takes the best one of the export."""

    export: Path
    model: Path | None = None
    alone: Alone = "both"
    replicates: int = REPLICATES
    seed: int = SEED


def measure(
    folder: Path,
    config_file: Path,
    wishes: Wishes,
    on_round: OnRound = lambda _done, _of: None,
    now: Callable[[], datetime] = datetime.now,
) -> SiteQuality:
    """Judge the export's model on this site's validation films; keep it in STATE/quality.json.

    Nothing leaves, and nothing is charged: models trained for comparison are dropped here. They
    are trained, though, so that the approval of plan and films and the site's hours must hold.
    Without training it is enough that these films were approved for this plan at some time.

    Raises ConfigError for what is no export, PolicyRefused (another plan than this folder's, films
    that nobody approved, outside hours), DataError, StateError.
    """
    config, identity = load_site(config_file), load(folder)
    plan = exported_plan(wishes.export)
    weights = _weights(wishes, plan)
    if wishes.alone != "none":
        check_hours(config.caps.hours, now())
    use_threads(config.compute.threads)
    hold_memory(config.caps.max_memory_gib)
    cohort = _cohort(folder, config, plan, trains=wishes.alone != "none")
    found = site_quality(
        plan,
        cohort,
        weights,
        site=identity.site,
        device=devices_of(config.compute)[0],
        alone=wishes.alone,
        replicates=wishes.replicates,
        seed=wishes.seed,
        on_round=on_round,
    )
    keyfile.store(folder / FILE, to_json(found).encode() + b"\n")
    return found


def measured(folder: Path) -> SiteQuality:
    """What was measured last. Raises StateError when nothing was, DataError when it is damaged."""
    path = folder / FILE
    if not folder.is_dir():
        raise StateError(f"{folder}: no such folder; name the worker's folder with --state")
    if not path.exists():
        raise StateError(f"{folder} has no {FILE} yet; run: primia-worker quality measure EXPORT")
    return from_json(keyfile.load(path).decode(errors="replace"))


def share(folder: Path, target: Path, by: Person) -> SiteQuality:
    """Write what may be handed on to `target`, a new file, and who decided so on the audit log.

    The line is there when the file is; without the line the file is taken away again. Raises
    PolicyRefused for too few patients, StateError.
    """
    load(folder)
    found = shareable(measured(folder))
    data = to_json(found).encode() + b"\n"
    state = WorkerState(folder)
    try:
        _write_new(target, data)
        try:
            state.audit.append(
                "quality_shared",
                plan=found.plan,
                model=found.model,
                file=sha256(data),
                name=by.name.strip(),
                role=by.role.strip(),
            )
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    finally:
        state.close()
    return found


def _write_new(target: Path, data: bytes) -> None:
    """Write a file that is not there yet; whole, or none. Raises StateError."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                target.unlink(missing_ok=True)
                raise
    except FileExistsError as err:
        raise StateError(
            f"{err.filename} is there already and is not overwritten; choose another file"
        ) from err
    except OSError as err:
        raise StateError(f"cannot write {target}: {err.strerror}; choose another file") from err


def exported_plan(export: Path) -> StudyPlan:
    """The plan of an export's folder. Raises ConfigError."""
    path = export / "plan.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise ConfigError(
            f"{path}: {err.strerror}; give the folder that the lead made with "
            "primia-coordinator export"
        ) from err
    except (ValueError, RecursionError) as err:
        raise ConfigError(f"{path}: cannot be read ({err}); ask the lead for it again") from err
    return validate(StudyPlan, raw, where=str(path))


def _weights(wishes: Wishes, plan: StudyPlan) -> FloatVector:
    there = [p for p in map(wishes.export.__truediv__, MODELS) if p.exists()]
    path = wishes.model or (there[0] if there else None)
    if path is None:
        raise ConfigError(
            f"{wishes.export}: holds no model ({' or '.join(MODELS)}); ask the lead to export the "
            "study once a round has made one"
        )
    model, terms = read_export(path)
    if terms != plan.model:
        raise ConfigError(f"{path}: is not a model of the plan beside it; export the study again")
    return flatten(model)


def _cohort(folder: Path, config: SiteConfig, plan: StudyPlan, *, trains: bool) -> Cohort:
    """The films that were approved here for this plan; `trains`: whose approval is in force."""
    digest, key = plan_digest(plan), site_key(folder, config)
    state = WorkerState(folder)
    try:
        pinned = state.noted("plan")
        if pinned != digest:
            raise PolicyRefused(
                f"the export is of plan {digest[:16]}…, and this folder works for "
                f"{'none yet' if pinned is None else pinned[:16] + '…'}; name the right --state, "
                "or the right export"
            )
        with open_ledger(folder, config) as ledger:
            cohort = read_cohort(folder, config, plan, key, ledger)
        manifest = cohort.manifest
        assert manifest is not None
        films, patients = len(manifest.entries), manifest.patients
        if trains:
            check(state, Subject(digest, manifest.digest, policy_of(config), films, patients))
        elif not any(
            d.approved and (d.plan, d.cohort) == (digest, manifest.digest)
            for d in state.decisions()
        ):
            # Another hospital's films, or more than were approved: under this site's key some of
            # them may be tested that the study trained on.
            raise PolicyRefused(
                f"the {films} films of {patients} patients that the site file names are not the "
                "cohort that was approved in this folder; name the site file and the --state that "
                "belong together, or approve these films: primia-worker plan approve"
            )
    finally:
        state.close()
    return cohort
