"""`primia bundle` from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.bundle.wheelhouse import primia, wheel


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "primia", *map(str, arguments)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_made_verified_and_refused_when_changed(tmp_path: Path) -> None:
    wheels, out = tmp_path / "wheels", tmp_path / "bundle"
    primia(wheels, "one")
    wheel(wheels, "one")
    made = call("bundle", "make", out, "--wheels", wheels, "--json")
    assert made.returncode == 0, made.stderr
    digest = json.loads(made.stdout)["digest"]
    assert json.loads(made.stdout)["packages"]["one"] == {"version": "1.0", "licence": "MIT"}

    verified = call("bundle", "verify", out, "--digest", digest)
    assert verified.returncode == 0
    assert digest in verified.stdout

    (out / "README.txt").write_text("install something else\n")
    refused = call("bundle", "verify", out)
    assert refused.returncode == 1
    assert "changed: README.txt" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_folder_without_wheels_is_wrong_use(tmp_path: Path) -> None:
    found = call("bundle", "make", tmp_path / "out", "--wheels", tmp_path)
    assert found.returncode == 2
    assert "no wheel of primia" in found.stderr


def test_a_unit_is_printed_ready_to_install() -> None:
    found = call("bundle", "unit", "worker", "--films", "/data/films")
    assert found.returncode == 0
    assert found.stdout.startswith("# The worker of a hospital.")
    assert "ReadOnlyPaths=-/data/films\n" in found.stdout
