"""Film files as the command takes them, and the command itself when one does not fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from primia.errors import DataError
from primia.infer import films, overview
from primia.infer.engine import REAL
from primia.types import SiteId
from tests.inference.programs import random_weights, residual_program
from tests.inference_service import toy
from tests.inference_service.conftest import World

ROOT = Path(__file__).parents[2]


def film(path: Path, side: int) -> Path:
    grey = np.add.outer(np.arange(side), np.arange(side)) * 200 // (2 * side)
    Image.fromarray(grey.astype(np.uint8)).save(path)
    return path


def test_a_film_is_shrunk_to_the_models_size(tmp_path: Path) -> None:
    found = films.read([film(tmp_path / "a.png", 64), film(tmp_path / "b.png", 32)], toy.program())
    assert found.shape == (2, 1, toy.SIDE, toy.SIDE)
    assert np.abs(found[0] - found[1]).max() < 0.05 * 2**16  # the same picture


def test_a_film_smaller_than_the_models_size_is_refused_by_its_name(tmp_path: Path) -> None:
    small = film(tmp_path / "small.png", 32)
    with pytest.raises(DataError, match=r"small.png: 32 pixels .* made for 64 x 64.*full size"):
        films.read([small], toy.program(side=64))


@pytest.mark.parametrize("content", [b"", b"no film", b"\x89PNG\r\n\x1a\n123"])
def test_what_is_no_film_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x.png: .*nothing was asked"):
        films.read([path], toy.program())


def test_a_folder_is_not_called_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a folder .* where a file is wanted; nothing was asked"):
        films.read([tmp_path], toy.program())


@pytest.fixture
def served(tmp_path: Path) -> Iterator[World]:
    """The real protocol, in answer to commands of other processes."""
    world = World(tmp_path)
    world.engine = REAL  # type: ignore[assignment]
    world.program = residual_program(side=16, answer="class")
    world.weights = dict(random_weights(world.program))
    world.start_model()
    world.enrol("dealer", "dealer")
    world.start_dealer()
    world.restart_model()
    world.enrol("hospital")
    yield world
    for name in list(world.running):
        world.stop(name)


def ask(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    state = ("--state", str(world.root / "hospital"))
    return subprocess.run(
        [sys.executable, "-m", "primia", "infer", "ask", *arguments, *state],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.processes
def test_the_command_answers_or_says_one_line_and_writes_no_file(
    served: World, tmp_path: Path
) -> None:
    good, small = film(tmp_path / "good.png", 40), film(tmp_path / "small.png", 16)
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "blank.png")
    answers = tmp_path / "answers.json"
    done = ask(served, str(good), str(small), "--json", "--answer-file", str(answers))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads(answers.read_text())
    assert answers.stat().st_mode & 0o777 == 0o600
    assert [f["film"] for f in found["films"]] == [str(good), str(small)]
    assert all(f["class"] in {*served.program.classes, None} for f in found["films"])
    assert "pinned from now on" in done.stderr  # the dealer, at first sight
    asked = served.book.budget(SiteId("hospital")).asked

    def refused(said: str, *arguments: str) -> None:
        file = tmp_path / "none.json"
        done = ask(served, *arguments, "--answer-file", str(file))
        assert done.returncode == 1, done.stdout
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("error: ")
        assert said in lines[0]
        assert not file.exists()
        assert done.stdout == ""

    refused("the same grey everywhere", str(good), str(tmp_path / "blank.png"))
    assert served.book.budget(SiteId("hospital")).asked == asked
    overview.budget(served.root / "model", SiteId("hospital"), films=asked, per_day=None)
    refused("query budget", str(good))
    served.stop("dealer")
    overview.budget(served.root / "model", SiteId("hospital"), films=asked + 9, per_day=None)
    refused("no session for 1 film is stocked here", str(good))
    served.stop("model")
    refused("is the model owner running", str(good))
