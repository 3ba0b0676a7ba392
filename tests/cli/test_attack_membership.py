"""`primia attack membership` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from primia.audit.membership import Exported, Recipe, _Run
from primia.cli.main import app
from primia.config import load_plan, load_site
from primia.demo.plans import SYNTHETIC, plan, site_file, write_yaml
from primia.errors import ConfigError
from primia.imaging import load_cohort
from primia.imaging.export import write_site_npz
from primia.imaging.synth import CLASSES, synthesise
from primia.learning.models import build_for, flatten

QUICK = ["attack", "membership", "--method", "rmia", "--references", "2", "--targets", "1"]


@pytest.fixture(autouse=True)
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models as they are built: what is said of them is another module's test."""
    monkeypatch.setattr(Recipe, "train", lambda self, *_: flatten(build_for(self.terms.model)))


def test_on_synthetic_films_it_prints_a_finding_for_scripts() -> None:
    done = CliRunner().invoke(app, [*QUICK, "--patients", "40", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["command"] == "attack membership"
    assert found["verdict"] == "told"  # nothing was learnt, so nothing can be said
    assert found["figures"]["auc"] is not None
    assert found["figures"]["epsilon"] == pytest.approx(8, abs=0.1)


def test_the_finding_on_films_of_ones_own_is_written_without_its_curve(tmp_path: Path) -> None:
    films = synthesise(40, size=28, seed=0)
    path = write_site_npz({"site": films}, tmp_path / "films", CLASSES)[0]
    done = CliRunner().invoke(app, [*QUICK, "--data", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out" / "finding.json").read_text())
    assert told["pictures"] == []
    assert (tmp_path / "out" / "picture-1.png").is_file()
    assert "stay" in done.output


def test_an_exported_model_needs_the_split_that_it_was_trained_with(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*QUICK, "--model", str(tmp_path / "model.safetensors")])
    assert isinstance(done.exception, ConfigError)
    assert "split.key" in str(done.exception)


def test_a_split_key_without_a_model_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*QUICK, "--key", str(tmp_path / "split.key")])
    assert isinstance(done.exception, ConfigError)


def test_members_of_an_exported_model_are_those_the_worker_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = write_site_npz({"site": synthesise(60, size=28, seed=0)}, tmp_path, CLASSES)[0]
    site = write_yaml(site_file(films, private=True), tmp_path / "site.yaml")
    raw = plan(
        sites=["a", "b", "c"], classes=CLASSES, input_size=28, patients_per_site=48,
        rounds=1, recipe=SYNTHETIC,
    )  # fmt: skip
    study = write_yaml(raw, tmp_path / "plan.yaml")
    key = tmp_path / "split.key"
    key.write_bytes(b"k" * 32)
    weights = tmp_path / "model.safetensors"
    terms = load_plan(study).model
    metadata = {"format": "primia-model/1", "terms": terms.model_dump_json()}
    save_file(build_for(terms).state_dict(), weights, metadata=metadata)
    cohort = load_cohort(
        load_site(site).data, classes=CLASSES, input_size=28, min_patients=2, split_key=b"k" * 32
    )
    seen: list[Exported] = []
    against = _Run.against
    monkeypatch.setattr(_Run, "against", lambda run, e: seen.append(e) or against(run, e))

    named = ["--plan", str(study), "--data", str(site), "--key", str(key), "--model", str(weights)]
    done = CliRunner().invoke(app, [*QUICK, *named, "--json"])

    assert done.exit_code == 0, done.output
    members, others = cohort.train.patient_count, cohort.validation.patient_count
    assert seen[0].members.tolist() == [True] * members + [False] * others
    assert json.loads(done.stdout)["figures"]["targets"] == 1
