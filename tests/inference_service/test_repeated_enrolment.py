"""Enrolment by scripts: the code in a file, and every step of `primia infer` safe to repeat."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from primia.cli.infer import app
from primia.errors import ConfigError, StateError
from tests.inference_service.conftest import World


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_an_authority_made_before_is_well_once_and_its_fingerprint_stays(tmp_path: Path) -> None:
    first = call("init", "chest", "--once", "--state", tmp_path / "m")
    certificate = (tmp_path / "m" / "identity" / "model.pem").read_bytes()
    again = call("init", "chest", "--once", "--state", tmp_path / "m")
    assert (first.exit_code, again.exit_code) == (0, 0), again.output
    assert "there already" in again.output
    assert first.output.split("fingerprint ")[1].split()[0] in again.output
    assert (tmp_path / "m" / "identity" / "model.pem").read_bytes() == certificate


def test_a_folder_of_another_service_is_refused(tmp_path: Path) -> None:
    assert call("init", "one", "--state", tmp_path / "m").exit_code == 0
    found = call("init", "two", "--once", "--state", tmp_path / "m")
    assert isinstance(found.exception, ConfigError)
    assert "'one'" in str(found.exception)


def test_invitation_and_enrolment_may_be_repeated_while_the_model_owner_serves(
    bare: World, tmp_path: Path
) -> None:
    home, code, folder = bare.root / "model", tmp_path / "code", tmp_path / "clinic"
    invite = (
        "invite", "data-owner", "clinic", "--address", f"127.0.0.1:{bare.model_port}",
        "--code-file", code, "--once", "--state", home,
    )  # fmt: skip
    enrol = ("enrol", code, "--once", "--state", folder)
    assert call("init", "chest", "--once", "--state", home).exit_code == 0
    assert call(*invite).exit_code == 0
    assert call(*enrol).exit_code == 0
    certificate = (folder / "identity" / "own.pem").read_bytes()

    code.unlink()
    repeated = call(*invite)
    assert repeated.exit_code == 0, repeated.output
    assert not code.exists()
    assert call(*enrol).exit_code == 0
    assert (folder / "identity" / "own.pem").read_bytes() == certificate

    call("roster", "--strike", "clinic", "--state", home)
    assert call(*invite).exit_code == 0
    assert code.read_text().startswith("primia1-")


def test_who_is_enrolled_in_another_role_is_refused_all_the_same(bare: World) -> None:
    address = ("--address", f"127.0.0.1:{bare.model_port}", "--state", bare.root / "model")
    assert call("invite", "dealer", "dealer", *address, "--once").exit_code == 0
    found = call("invite", "data-owner", "dealer", *address, "--once")
    assert isinstance(found.exception, StateError)


def test_enrolment_waits_for_the_file_with_the_code(bare: World, tmp_path: Path) -> None:
    code = tmp_path / "code"
    invite = (
        "invite", "data-owner", "clinic", "--address", f"127.0.0.1:{bare.model_port}",
        "--code-file", code, "--state", bare.root / "model",
    )  # fmt: skip
    later = threading.Timer(0.5, lambda: call(*invite))
    later.start()
    try:
        found = call("enrol", code, "--wait", "60", "--state", tmp_path / "clinic")
    finally:
        later.join()
    assert found.exit_code == 0, found.output


@pytest.mark.parametrize("wait", ["0", "0.3"])
def test_a_code_file_that_never_comes_is_named(tmp_path: Path, wait: str) -> None:
    missing = tmp_path / "code"
    found = call("enrol", missing, "--wait", wait, "--state", tmp_path / "clinic")
    assert isinstance(found.exception, ConfigError)
    assert str(missing) in str(found.exception)
