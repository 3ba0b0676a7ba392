"""Nobody is dropped without a word: what `why`, `status`, `rounds` and the report say of a site."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from coordinator import record, show, why
from coordinator.troubles import Trouble
from primia import outcome
from primia.errors import PeerError
from primia.protocol.events import Commit
from primia.protocol.messages import Declined, Ready
from primia.types import SiteId
from tests.attacks.test_poisoning import Study, sum_of

SLOW, ALL = SiteId("elm"), tuple(SiteId(s) for s in ("alder", "birch", "cedar", "dogwood", "elm"))
IN_TIME = ALL[:-1]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def one_round(study: Study, answers_after_s: float | None = None) -> None:
    """A round that `SLOW` is too late for; the sums are made as the others would."""
    study.now += 100.0
    for site in ALL:
        study.driver.attend(site, 0, 0.0, lambda: True)
    with study.driver._changed:
        study.driver._open_next()
    machine = study.driver._round
    assert machine is not None
    round_id = machine.terms.round
    for site in [s for s in machine.terms.invited if s != SLOW]:
        study.driver.answer(site, Ready(round_id))
    if SLOW in machine.terms.invited:
        study.now += machine.terms.grace_s + 0.5
        for site in ALL:  # they are there all the time
            study.driver.attend(site, 0, 0.0, lambda: True)
        study.driver.tick()
    model = study.blobs.get(round_id.model)
    vectors = [study.sites[s].vector(round_id, model) for s in IN_TIME]
    commit = Commit(totals=(sum_of(vectors),), groups=(IN_TIME,), contributors=IN_TIME)
    if answers_after_s is not None:
        study.now += answers_after_s
        with pytest.raises(PeerError):
            study.driver.answer(SLOW, Ready(round_id))
    study.driver._commit(machine, commit)


def panel(study: Study) -> str:
    text = io.StringIO()
    Console(file=text, width=200).print(show.status_panel(study.state))
    return text.getvalue()


def test_a_site_that_is_late_in_every_round_is_named_everywhere_with_phase_and_seconds(
    study: Study,
) -> None:
    for _ in range(3):
        one_round(study)
    kept = record.study_record(study.state)
    absences = [a for attempt in kept.attempts for a in attempt.absent]
    assert [(a.site, a.phase, a.code) for a in absences] == [(SLOW, "training", "late")] * 3
    assert all(a.reason == "no answer in time: waited 1.5 s" for a in absences)

    said = why.text_of(why.everything(study.state, kept)).plain
    assert "rounds 1 to 3 (3 attempts) · elm · training · late" in said
    assert "waited 1.5 s" in said
    assert "raise schedule.deadline_s" in said
    shown = panel(study)
    assert "not in the sum of round 3: elm (training: no answer in time: waited 1.5 s)" in shown
    assert "on the bench: elm, missed rounds 1, 2, 3" in shown
    outcome.write_report(kept, study.plan, study.folder)
    assert "waited 1.5 s" in (study.folder / "report.html").read_text()


def test_a_benched_site_stays_named_in_the_rounds_it_is_not_invited_to(study: Study) -> None:
    for _ in range(4):
        one_round(study)
    last = study.state.attempts()[-1]
    assert SLOW not in last.charged
    assert [(a.site, a.phase, a.code) for a in last.absent] == [(SLOW, "bench", "benched")]
    assert "bench" in why.text_of(why.troubles(record.study_record(study.state))).plain


def test_a_late_answer_is_kept_with_the_seconds_it_was_over(study: Study) -> None:
    one_round(study, answers_after_s=7.0)
    (found,) = study.state.troubles.all()
    assert (found.code, found.who, found.round, found.phase) == (
        "late-answer", SLOW, 1, "training",
    )  # fmt: skip
    assert "7.0 s after the round had gone on" in found.reason
    said = why.everything(study.state, record.study_record(study.state))
    assert [t["code"] for t in said if t["round"] == 1] == ["late", "late-answer"]


def test_a_worker_that_begins_anew_in_an_open_round_is_named_and_is_nobodys_decision(
    study: Study,
) -> None:
    study.now += 100.0
    study.driver.began_anew(SLOW)  # the first start is no restart
    for site in ALL:
        study.driver.attend(site, 0, 0.0, lambda: True)
    study.driver.tick()
    assert not study.state.troubles.all()
    for site in ALL:
        study.driver.attend(site, 0, 0.0, lambda: True)
    study.driver.began_anew(SLOW)
    machine = study.driver._round
    assert machine is not None
    study.driver.answer(SLOW, Declined(machine.terms.round, "it cannot go on"))
    assert [(t.code, t.who, t.phase) for t in study.state.troubles.all()] == [
        ("worker-restarted", SLOW, "training")
    ]
    lost = [p for p in study.driver._participation(machine, ()) if p.site == SLOW]
    assert [p.code for p in lost] == ["worker-restarted"]


def test_a_stranger_cannot_write_into_the_operators_terminal(study: Study) -> None:
    study.state.troubles.note("call-refused", "ipv4:192.0.2.1\x1b[2J", "no\x07 certificate")
    (found,) = why.stored_troubles(study.state)
    text = why.text_of([found]).plain
    assert not {"\x1b", "\x07"} & set(text)
    assert "certificate" in text


def test_troubles_outlive_the_process(study: Study) -> None:
    study.state.troubles.note("not-renewed", "", "the key is offline", times=2)
    study.start()
    (found,) = study.state.troubles.all()
    assert isinstance(found, Trouble)
    assert (found.times, found.reason) == (2, "the key is offline")
