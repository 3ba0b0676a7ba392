"""Encrypted prediction for real, in containers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from project import docker

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docker" / "simulation" / "prediction.py"
LONGEST_S = 1800  # images included

pytestmark = [pytest.mark.docker, pytest.mark.timeout(2 * LONGEST_S)]


def test_a_hospital_asks_in_containers_and_every_answer_is_the_one_in_the_clear() -> None:
    if shutil.which("docker") is None:
        pytest.skip("no docker command here")
    if subprocess.run(["docker", "info"], capture_output=True, timeout=60).returncode != 0:
        pytest.skip("no Docker Engine answers")
    subprocess.run(["make", "wheelhouse"], cwd=ROOT, check=True, timeout=LONGEST_S)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    try:
        done = subprocess.run(
            [sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=LONGEST_S,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("in the clear: ") == 4
    finally:
        subprocess.run([sys.executable, str(SCRIPT), "down"], timeout=120)
    mine = "--filter=label=com.docker.compose.project=primia-infer-demo"
    for kind in ("container", "network", "volume"):
        everything = ["--all"] if kind == "container" else []
        assert docker(kind, "ls", "--quiet", *everything, mine) == ""
