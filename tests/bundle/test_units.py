"""The systemd units: hardened, complete, and understood by systemd where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from primia.bundle.units import Role, unit_text
from primia.errors import ConfigError

MUST_SAY = {
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "StateDirectoryMode=0700",
    "UMask=0077",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    "MemoryMax=8G",
    "LimitCORE=0",
    "Restart=on-failure",
    "RestartPreventExitStatus=1 2",
}


@pytest.mark.parametrize("role", Role)
def test_a_unit_is_hardened_and_waits_for_a_person_after_a_refusal(role: Role) -> None:
    text = unit_text(role)
    assert set(text.splitlines()) >= MUST_SAY
    assert "@" not in text.replace("@system-service", "").replace("@privileged", "")
    assert f"User=primia-{role.value}" in text
    assert f"StateDirectory=primia-{role.value}" in text


def test_folders_go_where_they_belong() -> None:
    text = unit_text(Role.WORKER, prefix=Path("/usr/local/primia"), films=Path("/data/x-ray"))
    assert "ExecStart=/usr/local/primia/bin/primia-worker run " in text
    assert "ReadOnlyPaths=-/data/x-ray" in text


@pytest.mark.parametrize("path", ["films", "/a b", "/a\nUser=root", "/a%h", "/$HOME", '/a"'])
def test_a_path_that_would_mean_something_else_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot stand in a unit"):
        unit_text(Role.WORKER, films=Path(path))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("role", Role)
def test_systemd_understands_a_unit(role: Role, tmp_path: Path) -> None:
    program = tmp_path / "bin" / f"primia-{role.value}"
    program.parent.mkdir()
    program.write_text("#!/bin/true\n")
    program.chmod(0o755)
    unit = tmp_path / f"primia-{role.value}.service"
    unit.write_text(unit_text(role, prefix=tmp_path))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr
