from __future__ import annotations

import json
from dataclasses import replace

import pytest
from evidence_examples import finding, site_quality

from primia.errors import DataError
from primia.findings import Verdict
from primia.report.quality import shareable
from primia.report.record import StudyRecord
from primia.report.report import (
    MAX_FINDINGS,
    Prices,
    Reconstruction,
    Report,
    from_json,
    to_json,
    with_evidence,
)


def whole(record: StudyRecord) -> Report:
    bounds = (Reconstruction(256, 0.163, {"hospital-a": 0.12}),)
    report = Report(record, Prices({1: 2.5, 8: 7.96}, bounds))
    return with_evidence(report, [finding(), finding(Verdict.REFUTED, title="Noise")],
                         [site_quality(record)])  # fmt: skip


def test_a_report_reads_back_as_what_was_written(record: StudyRecord) -> None:
    report = whole(record)
    assert from_json(to_json(report)) == report
    assert report.findings[0].pictures


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", "primia-report/2"),
        ("local", "no"),
        ("record.schema", "other"),
        ("prices.epsilon_by_round", {"one": 1.0}),
        ("prices.epsilon_by_round", {"1": "much"}),
        ("prices.reconstruction", [{"among": 256}]),
        ("findings", [{}]),
        ("findings", 3),
        ("quality", [{"schema": "x"}]),
    ],
)
def test_anything_else_is_refused_as_a_report(
    record: StudyRecord, path: str, value: object
) -> None:
    raw = json.loads(to_json(whole(record)))
    *way, last = path.split(".")
    place = raw
    for key in way:
        place = place[key]
    place[last] = value
    with pytest.raises(DataError):
        from_json(json.dumps(raw))


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", "[" * 100_000])
def test_text_that_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        from_json(text)


def test_pictures_and_exact_counts_of_a_hospital_enter_only_its_own_report(
    record: StudyRecord,
) -> None:
    own, site = finding(local=True), site_quality(record)
    for_others = with_evidence(Report(record), [own], [site])
    assert for_others.findings[0].pictures == ()
    assert for_others.quality[0].quality.patients == 240
    assert for_others.quality[0].quality.confusion is None
    here = with_evidence(Report(record, local=True), [own], [site])
    assert here.findings[0].pictures == own.pictures
    assert here.quality[0].quality.patients == 249


def test_a_file_that_calls_itself_fit_for_others_is_rounded_all_the_same(
    record: StudyRecord,
) -> None:
    lying = replace(site_quality(record), shared=True)
    assert with_evidence(Report(record), (), [lying]).quality == (shareable(lying),)


def test_quality_of_another_study_or_model_is_refused(record: StudyRecord) -> None:
    for wrong in ({"plan": "0" * 64}, {"model": "f" * 64}):
        with pytest.raises(DataError, match="hospital-a"):
            with_evidence(Report(record), (), [replace(site_quality(record), **wrong)])


def test_a_newer_finding_of_the_same_attack_takes_the_place_of_the_older(
    record: StudyRecord,
) -> None:
    first = with_evidence(Report(record), [finding(), finding(title="Imprint")])
    again = with_evidence(first, [finding(Verdict.FELL)])
    assert [(f.title, f.verdict) for f in again.findings] == [
        ("Gradient inversion", Verdict.FELL),
        ("Imprint", Verdict.HELD),
    ]
    assert [f.title for f in again.alarms] == ["Gradient inversion"]


def test_more_findings_than_a_page_can_hold_are_refused(record: StudyRecord) -> None:
    many = [finding(title=f"attack {i}") for i in range(MAX_FINDINGS + 1)]
    with pytest.raises(DataError, match="leave some out"):
        with_evidence(Report(record), many)


def test_a_finding_of_another_plan_is_refused_by_name(record: StudyRecord) -> None:
    own = replace(finding(), plan=record.plan_digest)
    assert with_evidence(Report(record), [own]).findings == (own,)
    with pytest.raises(DataError, match=r"attack invert.*another plan \(0{12}…"):
        with_evidence(Report(record), [replace(finding(), plan="0" * 64)])


def test_of_two_findings_or_measurements_the_one_made_later_stands(record: StudyRecord) -> None:
    new, measured = finding(), shareable(site_quality(record))
    old, before = replace(new, made_at=1.0), replace(measured, made_at=1.0)
    for order in ([old, new], [new, old]):
        assert with_evidence(Report(record), order).findings == (new,)
        assert with_evidence(Report(record, findings=(order[0],)), order[1:]).findings == (new,)
    for both in ([before, measured], [measured, before]):
        assert with_evidence(Report(record), quality=both).quality == (measured,)
