"""What `primia plan price` prints is what the accountants say, and fits a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLAN = """\
study: cxr
model: {name: small-cnn, input_size: 28, classes: [normal, pneumonia]}
sites: [a, b, c]
rounds: 20
training: {patient_sampling_rate: 0.02, local_steps: 100, expected_patients: 20, learning_rate: 1}
privacy: {delta: 1e-5, noise_multiplier: 1.0}
"""


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


def price(*arguments: object) -> str:
    return subprocess.run(
        [sys.executable, "-m", "primia", "plan", "price", *map(str, arguments)],
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_table_gives_pld_rdp_and_gdp_of_the_whole_study_on_80_columns(plan_file: Path) -> None:
    lines = price(plan_file).splitlines()
    header = next(line for line in lines if "rounds" in line)
    for column in ("ε (PLD, decides)", "ε (RDP)", "ε (GDP-CLT, not a bound)"):
        assert column in header
    last = next(line for line in lines if "2000" in line)
    figures = [cell.strip() for cell in last.strip("│ ").split("│")]
    assert figures == ["20", "2000", "5.616", "6.151", "5.268"]
    assert max(map(len, lines[: lines.index(last) + 2])) <= 80


def test_the_json_holds_the_same_three(plan_file: Path) -> None:
    priced = json.loads(price(plan_file, "--json"))
    whole = priced["rows"][-1]
    assert (whole["rounds"], whole["steps"]) == (20, 2000)
    assert priced["epsilon"] == whole["epsilon"] == pytest.approx(5.616, abs=5e-4)
    assert whole["epsilon_rdp"] == pytest.approx(6.15, abs=2e-3)
    assert whole["epsilon_gdp"] == pytest.approx(5.268, abs=5e-4)


def test_checking_a_plan_with_groups_says_what_they_cost_in_anonymity(plan_file: Path) -> None:
    def check() -> str:
        return subprocess.run(
            [sys.executable, "-m", "primia", "plan", "check", str(plan_file)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    said = "each group's sum becomes known to the coordinator"
    assert said not in check()
    sites = ", ".join("abcdefghi")
    plan_file.write_text(
        PLAN.replace("a, b, c", sites) + "schedule: {quorum: 9}\naggregation: {groups: 3}\n"
    )
    assert said in check()


SHARED = PLAN.replace("local_steps: 100", "local_steps: 1").replace(
    "noise_multiplier: 1.0", "noise_multiplier: 1.0, noise: distributed, colluding_sites: 1"
)


def test_shared_noise_is_headed_by_the_accountant_that_decides(plan_file: Path) -> None:
    plan_file.write_text(SHARED)
    printed = price(plan_file)
    assert "ε (RDP, decides)" in printed
    assert "PLD" not in printed
    assert "coordinator together with up to 1 of them" in printed


def test_checking_a_plan_whose_noise_does_not_fit_the_ring_says_what_to_do(plan_file: Path) -> None:
    plan_file.write_text(SHARED.replace("expected_patients: 20", "expected_patients: 100000"))
    done = subprocess.run(
        [sys.executable, "-m", "primia", "plan", "check", str(plan_file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "use wire_bits: 32" in done.stderr
