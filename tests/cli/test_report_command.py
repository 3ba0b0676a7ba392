from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from primia import findings
from primia.cli.findings import write
from primia.cli.main import app
from primia.config.plan import StudyPlan
from primia.demo.plans import SYNTHETIC
from primia.demo.plans import plan as demo_plan
from primia.errors import ConfigError, DataError, StateError
from primia.findings import Finding, Picture, Verdict
from primia.report.record import ModelRecord, SiteRecord, StudyRecord, to_json
from primia.report.report import from_json

SITES = ["hospital-a", "hospital-b", "hospital-c"]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8) + (28).to_bytes(4, "big") * 2


def exported(folder: Path) -> StudyRecord:
    """An export of a study that was just begun: enough to make a report of."""
    plan: dict[str, Any] = demo_plan(
        sites=SITES, classes=("normal", "pneumonia"), input_size=28, patients_per_site=320,
        rounds=3, recipe=SYNTHETIC,
    )  # fmt: skip
    whole = StudyPlan.model_validate_json(json.dumps(plan)).model_dump(mode="json")
    sites = tuple(SiteRecord(s, "ab" * 32, 0.0, None, 2, n, 5.0) for n, s in enumerate(SITES))
    record = StudyRecord(
        study="demo", state="running", plan=whole, plan_digest="1" * 64, planned_epsilon=8.0,
        delta=1e-4, parameters=100, attempts=(), models=(ModelRecord(0, "2" * 64, None),),
        best=None, sites=sites, versions={}, written_at=0.0,
    )  # fmt: skip
    folder.mkdir()
    (folder / "result.json").write_text(to_json(record))
    return record


def finding(verdict: Verdict, title: str = "Noise", *, local: bool = False) -> Finding:
    return Finding(
        command="audit mechanism", title=title, question="?", verdict=verdict,
        answer="It was measured.", limits="Much.", pictures=(Picture("p", "w", PNG),), local=local,
    )  # fmt: skip


def written(found: Finding, path: Path) -> str:
    path.write_text(findings.to_json(found))
    return str(path)


def run(*arguments: str) -> str:
    return CliRunner().invoke(app, ["report", *arguments], catch_exceptions=False).output


def test_a_report_is_rebuilt_from_an_export_and_findings(tmp_path: Path) -> None:
    exported(tmp_path / "export")
    one = written(finding(Verdict.REFUTED), tmp_path / "one.json")
    run(str(tmp_path / "export"), "--finding", one, "--out", str(tmp_path / "made"))
    page = (tmp_path / "made" / "report.html").read_text()
    assert "It was measured." in page
    assert 'class="alarm"' in page
    assert "REFUTED" in (tmp_path / "made" / "model-card.md").read_text()
    report = from_json((tmp_path / "made" / "report.json").read_text())
    assert [f.verdict for f in report.findings] == [Verdict.REFUTED]
    among = {b.among: b for b in report.prices.reconstruction}
    assert among[256].sites["hospital-a"] == 1 / 256  # nothing was charged to it
    assert 1 / 256 < among[256].sites["hospital-b"] < among[256].sites["hospital-c"] < 1
    assert among[20].plan > among[256].plan
    assert not (tmp_path / "export" / "report.html").exists()


def test_evidence_of_an_earlier_report_stays_until_it_is_measured_anew(tmp_path: Path) -> None:
    exported(tmp_path / "export")
    folder = str(tmp_path / "export")
    run(folder, "--finding", written(finding(Verdict.REFUTED), tmp_path / "1.json"))
    run(folder, "--finding", written(finding(Verdict.HELD, "Inversion"), tmp_path / "2.json"))
    run(folder, "--finding", written(finding(Verdict.NOT_REFUTED), tmp_path / "3.json"))
    report = from_json((tmp_path / "export" / "report.json").read_text())
    assert [(f.title, f.verdict) for f in report.findings] == [
        ("Noise", Verdict.NOT_REFUTED),
        ("Inversion", Verdict.HELD),
    ]


def test_an_older_finding_is_said_not_to_stand(tmp_path: Path) -> None:
    exported(tmp_path / "export")
    folder = str(tmp_path / "export")
    late = replace(finding(Verdict.HELD), made_at=2.0)
    assert "newer" not in run(folder, "--finding", written(late, tmp_path / "1.json"))
    early = replace(finding(Verdict.REFUTED), made_at=1.0)
    assert "newer one" in run(folder, "--finding", written(early, tmp_path / "2.json"))


def test_films_of_a_hospital_are_on_a_page_only_where_it_is_asked_for(tmp_path: Path) -> None:
    exported(tmp_path / "export")
    one = written(finding(Verdict.HELD, local=True), tmp_path / "one.json")
    folder = str(tmp_path / "export")
    run(folder, "--finding", one, "--local", "--out", str(tmp_path / "here"))
    page = (tmp_path / "here" / "report.html").read_text()
    assert "data:image/png" in page
    assert "For this hospital only" in page
    # Made from the local report, a report for others is without them.
    run(str(tmp_path / "here"), "--out", str(tmp_path / "others"))
    for name in ("report.html", "report.json"):
        text = (tmp_path / "others" / name).read_text()
        assert "It was measured." in text
        assert "data:image/png" not in text
        assert "iVBOR" not in text


def test_a_local_report_takes_the_pictures_that_lie_beside_a_finding(tmp_path: Path) -> None:
    exported(tmp_path / "export")
    write(finding(Verdict.HELD, local=True), tmp_path / "found")
    for name, told in (("found", tmp_path / "found"), ("json", tmp_path / "found/finding.json")):
        run(str(tmp_path / "export"), "--finding", str(told), "--local", "--out",
            str(tmp_path / name / "here"))  # fmt: skip
        assert "data:image/png" in (tmp_path / name / "here" / "report.html").read_text()
    run(str(tmp_path / "export"), "--finding", str(tmp_path / "found"))
    run(str(tmp_path / "json" / "here"), "--out", str(tmp_path / "others"))
    for folder in ("export", "others"):
        assert "data:image/png" not in (tmp_path / folder / "report.html").read_text()
    (tmp_path / "found" / "picture-1.png").write_bytes(b"something")
    with pytest.raises(ConfigError, match=r"picture-1\.png"):
        run(str(tmp_path / "export"), "--finding", str(tmp_path / "found"), "--local")


def test_a_folder_with_the_report_of_another_study_is_left_alone(tmp_path: Path) -> None:
    record = exported(tmp_path / "export")
    run(str(tmp_path / "export"))
    exported(tmp_path / "second")
    other = replace(record, plan_digest="3" * 64)
    (tmp_path / "second" / "result.json").write_text(to_json(other))
    before = (tmp_path / "export" / "report.html").read_bytes()
    with pytest.raises(ConfigError, match="another study"):
        run(str(tmp_path / "second"), "--out", str(tmp_path / "export"))
    assert (tmp_path / "export" / "report.html").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"{" * 100_000, b'{"schema": 1}'])
@pytest.mark.parametrize("option", ["--finding", "--site-quality"])
def test_a_file_that_is_something_else_is_named(
    tmp_path: Path, option: str, content: bytes
) -> None:
    exported(tmp_path / "export")
    (tmp_path / "odd.json").write_bytes(content)
    with pytest.raises(DataError, match=r"odd\.json"):
        run(str(tmp_path / "export"), option, str(tmp_path / "odd.json"))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no result\.json; name the folder of an export"):
        run(str(tmp_path))
    exported(tmp_path / "export")
    with pytest.raises(ConfigError, match="nowhere"):
        run(str(tmp_path / "export"), "--finding", str(tmp_path / "nowhere.json"))


def test_a_result_whose_plan_is_none_is_refused(tmp_path: Path) -> None:
    record = exported(tmp_path / "export")
    odd = replace(record, plan={"study": "demo"})
    (tmp_path / "export" / "result.json").write_text(to_json(odd))
    with pytest.raises(ConfigError, match="the plan in"):
        run(str(tmp_path / "export"))


@pytest.mark.parametrize(
    "odd",
    ['"seconds": 1' + "0" * 400, '"seconds": 1e300', '"seconds": NaN', '"seconds": true',
     '"title": "\\ud800"', '"verdict": "held"'],
)  # fmt: skip
def test_a_number_or_letter_that_no_file_can_hold_is_refused_in_one_line(
    tmp_path: Path, odd: str
) -> None:
    exported(tmp_path / "export")
    text = findings.to_json(finding(Verdict.REFUTED))
    key = odd.split(":")[0]
    lines = [line for line in text.splitlines() if not line.startswith(f"  {key}")]
    kept = lines if key != '"verdict"' else text.splitlines()  # twice: refuted, and held
    (tmp_path / "odd.json").write_text("\n".join([kept[0], f"  {odd},", *kept[1:]]))
    with pytest.raises(DataError, match=r"odd\.json") as refused:
        run(str(tmp_path / "export"), "--finding", str(tmp_path / "odd.json"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("attempts", None), ("versions", []), ("planned_epsilon", "8"), ("best", "0"),
     ("written_at", 10**400), ("notes", "a note"), ("sites", [None]), ("models", [[]])],
)  # fmt: skip
def test_a_damaged_result_is_refused_in_one_line(tmp_path: Path, field: str, value: Any) -> None:
    exported(tmp_path / "export")
    path = tmp_path / "export" / "result.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, field: value}))
    with pytest.raises(DataError, match=r"result\.json") as refused:
        run(str(tmp_path / "export"))
    assert "\n" not in str(refused.value)


def test_pictures_of_own_films_are_for_their_owner_and_a_bad_folder_is_named(
    tmp_path: Path,
) -> None:
    write(finding(Verdict.HELD, local=True), tmp_path / "out")
    assert (tmp_path / "out" / "picture-1.png").stat().st_mode & 0o077 == 0
    assert "iVBOR" not in (tmp_path / "out" / "finding.json").read_text()
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="file"):
        write(finding(Verdict.HELD), tmp_path / "file")


def test_a_link_in_an_export_from_elsewhere_is_replaced_and_not_written_through(
    tmp_path: Path,
) -> None:
    exported(tmp_path / "export")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "export" / "report.html").symlink_to(tmp_path / "mine")
    (tmp_path / "export" / "report.html.part").symlink_to(tmp_path / "mine")
    run(str(tmp_path / "export"))
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "export" / "report.html").is_symlink()


def test_a_picture_that_unpacks_into_a_huge_one_is_refused(tmp_path: Path) -> None:
    exported(tmp_path / "export")
    huge = PNG[:16] + (60_000).to_bytes(4, "big") * 2
    bomb = replace(finding(Verdict.HELD), pictures=(Picture("p", "w", huge),))
    with pytest.raises(DataError, match="pixels"):
        run(str(tmp_path / "export"), "--finding", written(bomb, tmp_path / "bomb.json"))
