"""`primia demo`, as a newcomer types it: real processes from films to report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from primia.demo import run as demo
from primia.demo.display import Board, SiteView
from primia.demo.fleet import REFUSED, CallFailed, call
from primia.report.report import from_json

HOSPITALS = ["hospital-a", "hospital-b", "hospital-c"]


@pytest.mark.timeout(900)
def test_it_ends_in_a_report_with_the_quality_that_each_hospital_handed_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "primia", "demo", "--rounds", "2", "--no-attacks", "--keep", "run"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout + done.stderr
    report = from_json((tmp_path / "run/result/report.json").read_text())
    assert sorted(found.site for found in report.quality) == HOSPITALS
    assert all(found.shared and found.comparisons for found in report.quality)


@pytest.mark.parametrize("code", [2, 3])
def test_a_command_of_its_own_that_is_wrong_ends_it(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def share_fails(*arguments: str, timeout_s: float = 0) -> str:
        if "share" in arguments:
            raise CallFailed("no such option", code)
        return ""

    monkeypatch.setattr(demo, "call", share_fails)
    with pytest.raises(CallFailed):
        demo._measure(tmp_path, HOSPITALS, tmp_path, _Silent())  # type: ignore[arg-type]


def test_a_hospital_with_too_few_patients_hands_nothing_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, ...]] = []

    def one_refuses(*arguments: str, timeout_s: float = 0) -> str:
        called.append(arguments)
        if "share" in arguments and "hospital-b.json" in arguments[3]:
            raise CallFailed("too few patients", REFUSED)
        return ""

    monkeypatch.setattr(demo, "call", one_refuses)
    console = _Silent()
    demo._measure(tmp_path, HOSPITALS, tmp_path, console)  # type: ignore[arg-type]
    assert console.said == ["hospital-b: too few patients"]
    report = called[-1]
    assert report[:2] == ("primia", "report")
    assert [a for a in report if a.endswith(".json")] == [
        str(tmp_path / "shared" / f"hospital-{x}.json") for x in "ac"
    ]


def test_a_command_that_fails_says_its_last_lines_and_its_status() -> None:
    with pytest.raises(CallFailed, match="No such option") as failed:
        call("primia", "plan", "check", "--nonsense")
    assert failed.value.code == 2


def test_the_board_counts_no_more_rounds_than_the_plan_has() -> None:
    board = Board({"hospital-a": SiteView()}, 8, private=True)
    board.hear_coordinator({"event": "phase", "round": 8, "phase": "training", "waiting_for": []})
    assert board.phase == "round 8: training"
    board.hear_coordinator({"event": "phase", "round": 9, "phase": "unmasking", "waiting_for": []})
    assert board.phase == "last model: unmasking"


class _Silent:
    def __init__(self) -> None:
        self.said: list[str] = []

    def print(self, text: str, **_: object) -> None:
        self.said.append(text)
