"""The commands of the authority, and what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import coordinator.cli
import primia.cli.main
import worker.cli
from primia import __version__
from primia.errors import StateError

run = CliRunner().invoke


@pytest.fixture
def lead(tmp_path: Path) -> Path:
    assert (
        run(coordinator.cli.app, ["init", "small", "--state", str(tmp_path / "c")]).exit_code == 0
    )
    return tmp_path / "c"


@pytest.mark.parametrize("module", [coordinator.cli, worker.cli, primia.cli.main])
def test_every_command_tells_its_version(module) -> None:
    done = run(module.app, ["--version"])
    assert (done.exit_code, done.output.strip()) == (0, __version__)


def test_a_rotation_from_beginning_to_end(lead: Path) -> None:
    state = ["--state", str(lead)]
    assert (
        "endorsed by the one in use"
        in run(coordinator.cli.app, ["authority", "rotate", *state]).output
    )
    shown = json.loads(run(coordinator.cli.app, ["authority", "status", "--json", *state]).output)
    assert [(a["state"], a["key_here"]) for a in shown] == [
        ("old, to be retired", True),
        ("new", True),
    ]
    again = run(coordinator.cli.app, ["authority", "rotate", *state])
    assert isinstance(again.exception, StateError)
    assert "retire" in str(again.exception)
    done = run(coordinator.cli.app, ["authority", "retire", *state])
    assert "its key was deleted" in done.output
    shown = json.loads(run(coordinator.cli.app, ["authority", "status", "--json", *state]).output)
    assert [(a["state"], a["key_here"]) for a in shown] == [("retired", False), ("in use", True)]


def test_roster_shows_who_is_invited(lead: Path) -> None:
    state = ["--state", str(lead)]
    run(coordinator.cli.app, ["invite", "munich", "--address", "127.0.0.1:8443", *state])
    (entry,) = json.loads(run(coordinator.cli.app, ["roster", "--json", *state]).output)
    assert (entry["site"], entry["state"]) == ("munich", "invited")
    assert "invited until" in run(coordinator.cli.app, ["roster", *state]).output.replace("\n", " ")


def test_a_command_that_certifies_says_that_the_authority_is_offline(lead: Path) -> None:
    (lead / "authority").rename(lead.parent / "safe")
    done = run(
        coordinator.cli.app,
        ["invite", "munich", "--address", "127.0.0.1:8443", "--state", str(lead)],
    )
    assert isinstance(done.exception, StateError)
    assert "put the folder back" in str(done.exception)
