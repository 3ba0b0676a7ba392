"""`primia infer prepare` from the command line."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from primia.config.plan import ModelTerms
from primia.imaging.dataset import Films
from primia.imaging.export import write_site_folder
from primia.imaging.synth import CLASSES, synthesise
from primia.inference import model_file
from primia.learning.models import build_for


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "primia", "infer", "prepare", *map(str, arguments)],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the coordinator exports it."""
    path = tmp_path_factory.mktemp("model") / "model-best.safetensors"
    terms = ModelTerms(name="small-cnn", input_size=28, classes=CLASSES)
    tensors = {k: v.contiguous() for k, v in build_for(terms).state_dict().items()}
    metadata = {"format": "primia-model/1", "terms": terms.model_dump_json()}
    save_file(tensors, path, metadata=metadata)
    return path


def test_an_exported_model_is_prepared_on_the_owners_films(model: Path, tmp_path: Path) -> None:
    write_site_folder({"site-1": synthesise(20, size=40, seed=1)}, tmp_path / "films", CLASSES)
    made = call(model, "--films", tmp_path / "films" / "site-1", "--out", tmp_path / "m", "--json")
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    program, _ = model_file.read(tmp_path / "m")
    assert found["program"] == program.digest
    assert program.answer == "class"
    assert program.classes == CLASSES
    assert len(found["layers"]) == len(program.nodes)
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o600
    assert found["material_bytes"] > 1e6
    assert found["same_class"][0] == found["same_class"][1]


def test_the_table_shows_bounds_and_compared_bits(model: Path, tmp_path: Path) -> None:
    made = call(model, "--synthetic", "--answer", "probabilities", "--out", tmp_path / "m")
    assert made.returncode == 0, made.stderr
    assert "compared bits" in made.stdout
    assert "max-pool2d" in made.stdout
    assert "program " + model_file.read(tmp_path / "m")[0].digest in made.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--synthetic", "--answer", "logits"], "say --allow-logits"),
        ([], "give --films DATA"),
        (["--synthetic", "--films", "x"], "give --films DATA"),
        (["--synthetic", "--size", "64"], "--size: goes with --network"),
        (["--synthetic", "--network", "resnet18"], "--classes: needed with --network"),
        (["--films", "nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_wrong_use_is_one_line_and_no_file(
    model: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    refused = call(model, "--out", tmp_path / "m", *arguments)
    assert refused.returncode in {1, 2}
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "m").exists()


def test_a_prepared_model_is_never_written_over(model: Path, tmp_path: Path) -> None:
    (tmp_path / "m").write_text("mine")
    refused = call(model, "--synthetic", "--out", tmp_path / "m")
    assert refused.returncode == 2
    assert "is there already" in refused.stderr
    assert (tmp_path / "m").read_text() == "mine"


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders, of which the model's classes name one alone."""
    root = tmp_path_factory.mktemp("films")
    for folder, seed in ((CLASSES[0], 1), ("other", 2)):
        (root / folder).mkdir()
        for number, film in enumerate(synthesise(16, size=40, seed=seed).pixels[:16]):
            Image.fromarray(film).save(root / folder / f"{number}.png")
    return root


def test_films_of_every_folder_are_used_and_counted_by_class(
    model: Path, films: Path, tmp_path: Path
) -> None:
    made = call(model, "--films", films, "--out", tmp_path / "m", "--json")
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    assert found["films"] == 32
    assert found["films_of_class"] == dict.fromkeys(CLASSES, 0) | {CLASSES[0]: 16}


def test_films_need_no_class_folders(model: Path, films: Path, tmp_path: Path) -> None:
    made = call(model, "--films", films / "other", "--out", tmp_path / "m")
    assert made.returncode == 0, made.stderr
    assert "calibrated on 16 films: " in made.stdout
    assert "16 of no class" in made.stdout


def test_films_that_do_not_show_every_class_are_told(model: Path, tmp_path: Path) -> None:
    drawn = synthesise(20, size=40, seed=1)
    one = Films.of(drawn.pixels, np.zeros(len(drawn), np.int64), drawn.patients)
    write_site_folder({"one": one}, tmp_path / "films", CLASSES)
    made = call(model, "--films", tmp_path / "films" / "one", "--out", tmp_path / "m")
    assert made.returncode == 0, made.stderr
    assert f"no film of {', '.join(CLASSES[1:])}" in made.stderr


def test_a_prepared_model_is_not_prepared_again(model: Path, tmp_path: Path) -> None:
    assert call(model, "--synthetic", "--out", tmp_path / "m").returncode == 0
    refused = call(tmp_path / "m", "--synthetic", "--out", tmp_path / "again")
    assert refused.returncode == 2
    assert "was prepared before and is ready for `primia infer serve`" in refused.stderr
