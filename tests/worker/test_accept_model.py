"""`primia-worker plan accept-model`: a named person answers for one model, durably."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from primia.errors import ConfigError, PolicyRefused
from primia.types import Digest
from worker import home
from worker.cli import app
from worker.state import WorkerState

MODEL = "ab" * 32


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    state = WorkerState(tmp_path)
    state.models.refuse(Digest(MODEL))
    state.close()
    monkeypatch.setattr(home, "load", lambda _folder: None)  # as of an enrolled site
    return tmp_path


def call(folder: Path, *words: str) -> Exception | None:
    done = CliRunner().invoke(app, ["plan", "accept-model", *words, "--state", str(folder)])
    return done.exception  # type: ignore[return-value]


def test_a_named_person_accepts_one_model(folder: Path) -> None:
    assert call(folder, MODEL, "--as", "A. Steward", "--role", "steward") is None
    state = WorkerState(folder)
    assert state.models.accepted(Digest(MODEL))
    assert not state.models.accepted(Digest("cd" * 32))
    line = state.audit.last("model_accepted")
    assert line is not None
    assert line.fields["name"] == "A. Steward"
    state.close()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((MODEL,), "--as NAME"),
        ((MODEL, "--as", "A"), "--role ROLE"),
        ((MODEL[:16], "--as", "A", "--role", "steward"), "64 digits"),
        (("x" * 64, "--as", "A", "--role", "steward"), "64"),
    ],
)
def test_nobody_and_half_a_digest_accept_nothing(
    folder: Path, words: tuple[str, ...], says: str
) -> None:
    error = call(folder, *words)
    assert isinstance(error, ConfigError)
    assert says in str(error)
    state = WorkerState(folder)
    assert state.audit.last("model_accepted") is None
    state.close()


@pytest.mark.parametrize("unseen", ["0" * 64, "cd" * 32])
def test_a_model_that_this_site_never_refused_is_not_accepted(folder: Path, unseen: str) -> None:
    error = call(folder, unseen, "--as", "A. Steward", "--role", "steward")
    assert isinstance(error, PolicyRefused)
    assert "refused no model" in str(error)
    state = WorkerState(folder)
    assert not state.models.accepted(Digest(unseen))
    assert state.audit.last("model_accepted") is None
    state.close()
