"""Enrolment by scripts and service managers: the code in a file, and every step safe to repeat."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

import coordinator.cli
import worker.cli
from primia.errors import ConfigError
from tests.processes.federation import Federation, plan

pytestmark = pytest.mark.processes


def call(app: Typer, *arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_every_step_may_be_repeated_and_the_code_is_never_shown(tmp_path: Path) -> None:
    sites = ["east", "north", "south"]
    federation = Federation(tmp_path, sites)
    home, code_file, folder = federation.home, tmp_path / "post" / "code", tmp_path / "west"
    invite = ("invite", "east", "--address", f"127.0.0.1:{federation.port}", "--state", home)
    try:
        federation.found(plan(sites))
        again = call(coordinator.cli.app, "init", "small", "--once", "--state", home)
        assert again.exit_code == 0
        assert "there already" in again.output

        enrolled = call(coordinator.cli.app, *invite, "--code-file", code_file, "--once")
        assert enrolled.exit_code == 0
        assert not code_file.exists()

        call(coordinator.cli.app, "roster", "--strike", "east", "--state", home)
        invited = call(coordinator.cli.app, *invite, "--code-file", code_file, "--once")
        assert invited.exit_code == 0, invited.output
        assert "primia1-" not in invited.output
        assert code_file.read_text().startswith("primia1-")
        assert stat.S_IMODE(code_file.stat().st_mode) == 0o600

        enrol = ("enrol", "--code-file", code_file, "--once", "--state", folder)
        first = call(worker.cli.app, *enrol)
        assert first.exit_code == 0, first.output
        certificate = (folder / "identity" / "site.pem").read_bytes()
        code_file.unlink()
        assert call(worker.cli.app, *enrol).exit_code == 0
        assert (folder / "identity" / "site.pem").read_bytes() == certificate
    finally:
        federation.stop()


def test_a_folder_of_another_study_is_refused(tmp_path: Path) -> None:
    assert call(coordinator.cli.app, "init", "one", "--state", tmp_path / "c").exit_code == 0
    found = call(coordinator.cli.app, "init", "two", "--once", "--state", tmp_path / "c")
    assert isinstance(found.exception, ConfigError)
    assert "'one'" in str(found.exception)


@pytest.mark.parametrize("arguments", [(), ("primia1-x", "--code-file", "f")])
def test_a_code_comes_from_one_place(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    found = call(worker.cli.app, "enrol", *arguments, "--state", tmp_path / "w")
    assert isinstance(found.exception, ConfigError)


def test_a_code_file_that_never_comes_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "code"
    found = call(
        worker.cli.app, "enrol", "--code-file", missing, "--wait", "0.5", "--state", tmp_path / "w"
    )
    assert isinstance(found.exception, ConfigError)
    assert str(missing) in str(found.exception)
