from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from io import StringIO

import pytest
from evidence_examples import site_quality
from rich.console import Console, RenderableType

from primia.report import quality_tables
from primia.report.quality import shareable
from primia.report.record import Absence, StudyRecord
from primia.report.terminal import rounds_table, sites_table, summary


def _shown(renderable: RenderableType, *, colour: bool = False) -> str:
    out = StringIO()
    Console(file=out, width=160, force_terminal=colour).print(renderable)
    return out.getvalue()


def test_rounds_table_has_a_line_for_each_attempt(
    record: StudyRecord, epsilon_by_round: dict[int, float]
) -> None:
    shown = _shown(rounds_table(record, epsilon_by_round=epsilon_by_round))
    assert shown.count("committed") == 9
    assert shown.count("aborted") == 1
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if "committed" in line}
    assert lines["3"][:6] == ["3", "committed", "3/4", "0.805", "0.579", "4.88"]
    assert lines["7"][3] == "*0.893", "the best model is marked"
    assert "hospital-c: training" in shown
    assert "2 of 4 masked updates arrived" in shown


def test_sites_table_gives_each_site_its_own_epsilon(record: StudyRecord) -> None:
    shown = [line.split() for line in _shown(sites_table(record)).splitlines()]
    lines = {words[0]: words for words in shown if words}
    assert lines["hospital-a"][1:4] == ["8", "9", "7.96"]
    assert lines["hospital-c"][1:4] == ["6", "7", "6.90"]


def test_summary_gives_quality_and_privacy(record: StudyRecord) -> None:
    shown = _shown(summary(record))
    assert "8 of 8 rounds committed" in shown
    assert "0.887 last (round 8, 1,096 validation films), 0.893 best (round 7)" in shown
    assert "δ = 1×10⁻⁴, add or remove one patient" in shown


def test_missing_privacy_is_said_in_summary_and_table(no_privacy: StudyRecord) -> None:
    assert "privacy: none" in _shown(summary(no_privacy))
    assert _shown(sites_table(no_privacy)).count("no privacy") == 4


def test_study_that_has_just_started_can_be_shown(empty: StudyRecord) -> None:
    assert "no model has been evaluated yet" in _shown(summary(empty))
    _shown(rounds_table(empty))
    _shown(sites_table(empty))


def test_a_reason_can_neither_style_nor_steer_the_terminal(record: StudyRecord) -> None:
    hostile = "[bold red]x[/] [/nothing] \x1b]0;title\x07 \x1b[2J"
    attempts = list(record.attempts)
    attempts[4] = replace(attempts[4], reason=hostile, absent=(Absence("s", hostile, hostile),))
    study = replace(record, attempts=tuple(attempts), study="[/x]\x1b[2J")
    for renderable in (rounds_table(study), sites_table(study), summary(study)):
        shown = _shown(renderable, colour=True)
        assert "\x1b[2J" not in shown
        assert "\x1b]0;" not in shown
    assert "[bold red]x[/]" in _shown(rounds_table(study))


def test_votes_and_returns_are_shown_where_there_was_a_vote(record: StudyRecord) -> None:
    assert "votes" not in _shown(rounds_table(record))
    attempts = [replace(a, votes=len(a.contributors)) for a in record.attempts]
    attempts[3] = replace(attempts[3], votes=1, returned_to=2)
    study = replace(record, attempts=tuple(attempts))
    line = next(x for x in _shown(rounds_table(study)).splitlines() if x.split()[:1] == ["4"])
    assert "1/3" in line
    assert "returned to the model of round 2: 1 of 3 sites accepted" in line
    assert "1 rejected; round 4 returned to the model of round 2" in _shown(summary(study))


@pytest.mark.parametrize("module", ["record", "view", "terminal"])
def test_status_commands_load_neither_matplotlib_nor_torch(module: str) -> None:
    code = (
        f"import sys, primia.report.{module}; "
        "print(sorted({'matplotlib', 'numpy', 'torch', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_ended_an_attempt_for_all_is_said_once(record: StudyRecord) -> None:
    ended = "the coordinator was restarted"
    attempt = next(a for a in record.attempts if a.outcome == "aborted")
    absent = tuple(Absence(s, "masked update", ended) for s in ("hospital-a", "hospital-b"))
    away = Absence("hospital-c", "training", "no answer in time")
    changed = replace(attempt, reason=ended, absent=(*absent, away))
    attempts = tuple(changed if a is attempt else a for a in record.attempts)
    shown = _shown(rounds_table(replace(record, attempts=attempts)))
    line = next(line for line in shown.splitlines() if "aborted" in line)
    assert line.rstrip().endswith(f"hospital-c: training; {ended}")


def test_quality_is_whole_on_eighty_columns(record: StudyRecord) -> None:
    out = StringIO()
    console = Console(width=80, file=out)
    for table in quality_tables.tables(site_quality(record)):
        console.print(table)
    text = out.getvalue()
    assert "rounded down by itself" not in text
    for table in quality_tables.tables(shareable(site_quality(record))):
        console.print(table)
    assert "each count rounded down by itself" in out.getvalue()
    assert "…" not in text.split("each class")[1]
    for said in ("sensitivity ≥", "0.95*", "specificity", "0.85–0.92", "0.852–0.918", "patients"):
        assert said in text, text
