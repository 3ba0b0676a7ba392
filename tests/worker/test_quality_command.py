# ruff: noqa: F811
"""A hospital measures a model on its own films; what it hands on is decided, rounded and noted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from coordinator.export import _save
from primia.config import StudyPlan, plan_digest
from primia.errors import ConfigError, PolicyRefused, StateError
from primia.federation.optimiser import pack_weights
from primia.imaging.export import write_site_npz
from primia.report.quality import from_json
from primia.site_quality import Alone
from primia.storage.audit_log import AuditLog
from primia.storage.blobs import Blobs
from primia.study import first_weights
from primia.types import sha256
from tests.attacks.hospitals import films
from tests.renewal.study import EAST, PLAN
from tests.worker.doctor.conftest import Hospital, contents, founded, hospital  # noqa: F401
from worker.approval import Person, refuse
from worker.cli import app
from worker.page import approve_page, read_page
from worker.quality import Wishes, measure, share
from worker.state import WorkerState

NOON = datetime(2026, 5, 4, 12)
BY = Person("Ada", "steward", "ada")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def exported(folder: Path, plan: StudyPlan = PLAN, name: str = "model-best.safetensors") -> Path:
    """As `primia-coordinator export` writes it, with model 0 as the best."""
    folder.mkdir()
    weights = first_weights(plan)
    blobs = Blobs(folder.parent / "blobs")
    row = SimpleNamespace(digest=blobs.put(pack_weights(weights)), number=0)
    _save(folder / name, row, plan, blobs, weights.size)
    (folder / "plan.json").write_text(json.dumps(plan.model_dump(mode="json"), indent=2))
    return folder


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return exported(tmp_path / "export")


@pytest.fixture
def bigger(hospital: Hospital, tmp_path: Path) -> Hospital:
    """With enough films for a file that may be handed on."""
    few = films(300, seed=2)
    (npz,) = write_site_npz({EAST: few}, tmp_path / "more", PLAN.model.classes)
    hospital.films_are({"kind": "npz", "path": str(npz)})
    page = read_page(hospital.state, hospital.site_file)
    assert not approve_page(hospital.state, page, BY).missing
    return hospital


def test_the_model_is_measured_here_and_nothing_else_changes(
    hospital: Hospital,
    export: Path,
) -> None:
    before = contents(hospital.state)
    found = measure(hospital.state, hospital.site_file, Wishes(export, replicates=1000))
    after = contents(hospital.state)
    written = after.pop("quality.json")
    assert {k: v[0] for k, v in after.items() if not k.startswith("worker.db")} == {
        k: v[0] for k, v in before.items() if not k.startswith("worker.db")
    }  # no charge, no line of the audit log, no model left behind
    assert from_json(written[0].decode()) == found
    assert written[2] & 0o077 == 0
    assert (found.site, found.plan) == (EAST, plan_digest(PLAN))
    assert found.model == sha256(pack_weights(first_weights(PLAN)))
    assert len(found.comparisons) == 2
    assert 0 < found.quality.patients < 40


def spoil_plan(hospital: Hospital, export: Path) -> None:
    other = PLAN.model_copy(update={"rounds": PLAN.rounds + 1})
    (export / "plan.json").write_text(json.dumps(other.model_dump(mode="json")))


def take_back(hospital: Hospital, export: Path) -> None:
    state = WorkerState(hospital.state)
    refuse(state, BY, "no")
    state.close()


def set_hours(hospital: Hospital, export: Path) -> None:
    hospital.configure(caps={"hours": "19:00-06:00"})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(spoil_plan, "works for"), (take_back, "refused by Ada"), (set_hours, "19:00 to 06:00")],
)
def test_nothing_is_trained_that_the_hospital_does_not_allow(
    hospital: Hospital,
    export: Path,
    spoil: Callable[[Hospital, Path], None],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.quality.site_quality", lambda *_, **__: pytest.fail("it worked"))
    spoil(hospital, export)
    with pytest.raises(PolicyRefused, match=says):
        measure(hospital.state, hospital.site_file, Wishes(export), now=lambda: NOON)
    assert not (hospital.state / "quality.json").exists()


@pytest.mark.parametrize("alone", ["none", "both"])
def test_films_that_were_not_approved_here_are_not_judged(
    hospital: Hospital, export: Path, tmp_path: Path, alone: Alone
) -> None:
    """As of another hospital: under this one's split key, some it trained on would be tested."""
    (npz,) = write_site_npz({EAST: films(40, seed=7)}, tmp_path / "west", PLAN.model.classes)
    hospital.films_are({"kind": "npz", "path": str(npz)})
    with pytest.raises(PolicyRefused, match=r"cohort .*approve"):
        measure(hospital.state, hospital.site_file, Wishes(export, alone=alone, replicates=1000))
    assert not (hospital.state / "quality.json").exists()


def test_without_training_an_approval_that_was_taken_back_is_enough(
    hospital: Hospital,
    export: Path,
) -> None:
    take_back(hospital, export)
    set_hours(hospital, export)
    wishes = Wishes(export, alone="none", replicates=1000)
    found = measure(hospital.state, hospital.site_file, wishes, now=lambda: NOON)
    assert found.comparisons == ()


def damage(export: Path) -> None:
    (export / "plan.json").write_text("{")


def empty(export: Path) -> None:
    os.remove(export / "model-best.safetensors")


def no_plan(export: Path) -> None:
    os.remove(export / "plan.json")


def other_model(export: Path) -> None:
    wider = PLAN.model.model_copy(update={"classes": ("a", "b", "c")})
    path = exported(export.parent / "other", PLAN.model_copy(update={"model": wider}))
    os.replace(path / "model-best.safetensors", export / "model-best.safetensors")


@pytest.mark.parametrize("spoil", [damage, empty, no_plan, other_model])
def test_what_is_no_export_is_said_to_be_none(
    hospital: Hospital,
    export: Path,
    spoil: Callable[[Path], None],
) -> None:
    spoil(export)
    with pytest.raises(ConfigError, match=r"export|ask the lead"):
        measure(hospital.state, hospital.site_file, Wishes(export))


def run(hospital: Hospital, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["quality", *arguments, "--state", str(hospital.state)])


def test_what_is_handed_on_is_rounded_and_stands_in_the_audit_log(
    bigger: Hospital, export: Path, tmp_path: Path
) -> None:
    wishes = Wishes(export, alone="none", replicates=1000)
    found = measure(bigger.state, bigger.site_file, wishes)
    target = tmp_path / "to-the-lead" / "east.json"
    done = run(bigger, "share", str(target), "--as", "Ada", "--role", "steward")
    assert done.exit_code == 0, done.output
    handed = from_json(target.read_text())
    assert handed.shared
    assert handed.quality.confusion is None
    assert handed.quality.films % 10 == 0
    assert handed.quality.auc.value == round(found.quality.auc.value, 3)
    last = AuditLog(bigger.state / "audit.jsonl").last("quality_shared")
    assert last is not None
    assert dict(last.fields) == {
        "plan": plan_digest(PLAN),
        "model": found.model,
        "file": sha256(target.read_bytes()),
        "name": "Ada",
        "role": "steward",
    }


def test_nobody_shares_without_a_name_before_measuring_or_of_too_few(
    hospital: Hospital,
    export: Path,
    tmp_path: Path,
) -> None:
    target = tmp_path / "east.json"
    for nobody in ((), ("--as", "Ada"), ("--role", "steward")):
        assert isinstance(run(hospital, "share", str(target), *nobody).exception, ConfigError)
    with pytest.raises(StateError, match="quality measure"):
        share(hospital.state, target, BY)
    measure(hospital.state, hospital.site_file, Wishes(export, alone="none", replicates=1000))
    with pytest.raises(PolicyRefused, match="10 test patients"):
        share(hospital.state, target, BY)
    assert not target.exists()
    assert AuditLog(hospital.state / "audit.jsonl").last("quality_shared") is None


@pytest.fixture
def measured(bigger: Hospital, export: Path) -> Hospital:
    measure(bigger.state, bigger.site_file, Wishes(export, alone="none", replicates=1000))
    return bigger


def test_a_file_that_is_there_is_not_overwritten_and_nothing_is_logged(
    measured: Hospital, tmp_path: Path
) -> None:
    there, folder = tmp_path / "there.json", tmp_path / "folder"
    there.write_text("another")
    folder.mkdir()
    beneath = there / "east.json"
    for target in (there, folder, beneath):
        with pytest.raises(StateError, match=r"there already.*choose another file"):
            share(measured.state, target, BY)
    assert there.read_text() == "another"
    assert AuditLog(measured.state / "audit.jsonl").last("quality_shared") is None


def test_without_its_line_on_the_audit_log_no_file_is_left(
    measured: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "east.json"

    def full(*_: object, **__: object) -> None:
        assert target.exists()
        raise StateError("the disk is full")

    monkeypatch.setattr(AuditLog, "append", full)
    with pytest.raises(StateError, match="full"):
        share(measured.state, target, BY)
    assert not target.exists()


def test_a_folder_that_is_mistyped_is_said_not_to_be_there(tmp_path: Path) -> None:
    mistyped = tmp_path / "hospitl"
    done = CliRunner().invoke(app, ["quality", "show", "--state", str(mistyped)])
    assert isinstance(done.exception, StateError)
    assert "no such folder" in str(done.exception)


def test_the_figures_are_shown_to_people_and_to_scripts(
    hospital: Hospital,
    export: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    config = ("--config", str(hospital.site_file))
    done = run(hospital, "measure", str(export), "--alone", "none", *config)
    assert done.exit_code == 0, done.output
    assert "balanced accuracy" in done.output
    assert "stays in this hospital" in done.output
    raw = json.loads(run(hospital, "show", "--json").stdout)
    assert raw["quality"]["unit"] == "patient"
    assert np.isfinite(raw["quality"]["auc"]["value"])
