"""What attacks, audits and hospitals found, as the page and the card show it."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from evidence_examples import finding, png, site_quality

from primia.findings import Finding, Picture, Table, Verdict
from primia.report import checklists
from primia.report.card import markdown
from primia.report.html import render
from primia.report.record import StudyRecord
from primia.report.report import Prices, Reconstruction, Report, with_evidence

HOSTILE = """</style><script>alert(1)</script>"'><img src=x onerror=alert(1)>|`$x$\u202e\x1b[2J"""


class Seen(HTMLParser):
    """Elements with their attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def with_findings(record: StudyRecord, *findings: Finding, local: bool = False) -> Report:
    return with_evidence(Report(record, local=local), findings)


def test_a_finding_is_shown_whole(record: StudyRecord) -> None:
    one = finding()
    page = Seen(render(with_findings(record, one)))
    for said in (one.title, one.question, one.answer, one.limits, "held", "36.8", "12 s"):
        assert said in page.text, said
    (picture,) = [a for t, a in page.elements if t == "img"]
    assert (picture["src"] or "").startswith("data:image/png;base64,")
    assert picture["alt"] == one.pictures[0].words
    assert picture["width"] == "196"  # 28 pixels, enlarged in whole steps


def test_page_with_pictures_still_loads_nothing(record: StudyRecord) -> None:
    html = render(with_evidence(with_findings(record, finding()), (), [site_quality(record)]))
    page = Seen(html)
    (policy,) = [a["content"] or "" for t, a in page.elements if "http-equiv" in a]
    assert policy.startswith("default-src 'none'")
    assert "img-src data:" in policy
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        for name in {"src", "href", "xlink:href", "srcset", "action"} & attributes.keys():
            value = attributes[name] or ""
            assert value.startswith(("#", "data:image/png;base64,")), value
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {a["href"] for t, a in page.elements if t == "a"}
    assert targets <= {f"#{i}" for i in ids}


@pytest.mark.parametrize("verdict", [Verdict.REFUTED, Verdict.FELL])
def test_what_failed_is_said_before_anything_else(record: StudyRecord, verdict: Verdict) -> None:
    bad = replace(finding(verdict, title="Noise"), answer="Half of the noise is missing.")
    html = render(with_findings(record, finding(), bad))
    alarm = html.index('class="alarm"')
    assert alarm < html.index("Summary</h2>")
    said = Seen(html[alarm : html.index("</aside>", alarm)]).text
    assert "Noise" in said
    assert verdict.value in said
    assert "Half of the noise is missing." in said
    # It is the first of the findings, too, and in the tile of the summary.
    assert html.index('id="finding-1"') < html.index("Half of the noise", html.index("finding-1"))
    assert "1 of 2" in Seen(html).text
    assert f"{verdict.value.upper()}: Half of the noise" in markdown(
        with_findings(record, finding(), bad)
    )


def test_what_held_raises_no_alarm(record: StudyRecord) -> None:
    html = render(with_findings(record, finding(), finding(Verdict.NOT_REFUTED, title="Noise")))
    assert 'class="alarm"' not in html
    assert "no proof" in Seen(html).text


def test_a_study_on_which_nothing_was_tried_says_so(record: StudyRecord) -> None:
    assert "None was run" in Seen(render(Report(record))).text
    assert "no attack and no audit was run" in markdown(Report(record))


def test_hostile_findings_stay_text(record: StudyRecord) -> None:
    bad = Finding(
        command=HOSTILE, title=HOSTILE, question=HOSTILE, verdict=Verdict.FELL, answer=HOSTILE,
        limits=HOSTILE, figures={HOSTILE: HOSTILE}, tables=(Table((HOSTILE,), ((HOSTILE,),)),),
        pictures=(Picture(HOSTILE, HOSTILE, b"\x89PNG\r\n\x1a\n"),),
    )  # fmt: skip
    site = site_quality(record)
    classes = tuple(replace(c, name=HOSTILE) for c in site.quality.classes)
    quality = replace(site.quality, classes=classes, method=HOSTILE, unit=HOSTILE)
    other = tuple(replace(c, name=HOSTILE) for c in site.comparisons)
    site = replace(site, site=HOSTILE, quality=quality, comparisons=other, limits=HOSTILE)
    report = with_evidence(Report(record), [bad], [site])
    html = render(report)
    page = Seen(html)
    assert "script" not in {t for t, _ in page.elements}
    assert not [n for _, a in page.elements for n in a if n.startswith("on")]
    sources = [a["src"] or "" for _, a in page.elements if "src" in a]
    assert all(s.startswith("data:image/png") for s in sources)
    assert not set(html) & {"\u202e", "\x1b"}
    card = markdown(report)
    assert "<script" not in card
    assert not set(card) & {"\u202e", "\x1b"}
    for line in card.splitlines():  # a bar in a title opens no column
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) == 3, line


def test_a_huge_finding_does_not_flood_the_page(record: StudyRecord) -> None:
    rows = tuple((str(i), "x" * 5000) for i in range(5000))
    long = replace(finding(), answer="y" * 10**6, tables=(Table(("n", "t"), rows),))
    html = render(with_findings(record, long))
    assert "4940 more rows" in Seen(html).text
    assert len(html) < len(render(with_findings(record, finding()))) + 100_000


def test_bounds_on_reconstruction_stand_beside_the_blind_guess(record: StudyRecord) -> None:
    bounds = (
        Reconstruction(256, 0.1629, {"hospital-a": 0.12341}),
        Reconstruction(20, 0.5, {}),
    )
    text = " ".join(Seen(render(Report(record, Prices({}, bounds)))).text.split())
    assert "12.4 %" in text  # rounded up
    assert "16.3 %" in text  # a site that the bound does not name gets the whole plan's
    assert "0.4 %" in text
    assert "5.0 %" in text


def test_quality_that_hospitals_measured_is_shown_with_intervals(record: StudyRecord) -> None:
    assert "Quality at each hospital" not in Seen(render(Report(record))).text
    sites = [site_quality(record, s) for s in ("hospital-a", "hospital-b")]
    html = render(with_evidence(Report(record), (), sites))
    text = Seen(html).text
    for said in (
        "0.893 0.853 to 0.923",
        "0.890 0.850 to 0.920",  # two digits are all that is handed on of all but the AUC
        "+0.052 (+0.012 to +0.094)",
        "≥ 240",
        "sensitivity ≥ 0.95",
        "best (round 7)",
        "with the plan's privacy",
    ):
        assert said in text, said
    for figure in ("intervals-figure_1", "site0-roc-figure_1", "site1-calibration-figure_1"):
        assert f'id="{figure}"' in html
    assert "249" not in text
    local = Seen(render(with_evidence(Report(record, local=True), (), sites))).text
    assert "For this hospital only" in local
    assert "249" in local


def test_checklists_have_every_item_once_and_say_what_is_missing(record: StudyRecord) -> None:
    numbers = [i.number for i in checklists.CLAIM]
    assert numbers == [str(n) for n in range(1, 45)]
    assert len({i.number for i in checklists.TRIPOD_AI}) == len(checklists.TRIPOD_AI) == 52
    uncertainty = checklists.CLAIM[28]
    assert uncertainty.place(Report(record))[0] == ""
    measured = with_evidence(Report(record), (), [site_quality(record)])
    assert uncertainty.place(measured)[0] == "quality"
    for item in (*checklists.CLAIM, *checklists.TRIPOD_AI):
        section, note = item.place(measured)
        assert section in checklists.SECTIONS or note == checklists.AUTHORS
    assert "to be written by the authors" in Seen(render(Report(record))).text


def test_model_card_has_the_facts_of_the_page(record: StudyRecord) -> None:
    card = markdown(with_findings(record, finding(Verdict.NOT_REFUTED, command="audit mechanism")))
    for said in (
        "# Model card: paediatric-cxr",
        "15,234 weights",
        record.plan_digest,
        record.models[7].digest,
        "AUC 0.893",
        "ε = 7.96 at δ = 1×10⁻⁴",
        "NOT REFUTED",
        "Not a medical device",
        "no hospital outside the study",
    ):
        assert said in card, said


def test_card_of_a_study_without_privacy_says_none(no_privacy: StudyRecord) -> None:
    assert "NONE. Nothing bounds what the model remembers." in markdown(Report(no_privacy))


def test_a_picture_that_lies_about_its_size_cannot_stretch_the_page(record: StudyRecord) -> None:
    huge = png()[:16] + b"\xff" * 8 + png()[24:]
    one = replace(finding(), pictures=(Picture("big", "big", huge),))
    (picture,) = [a for t, a in Seen(render(with_findings(record, one))).elements if t == "img"]
    assert int(picture["width"] or 0) <= 4000


def test_a_page_says_that_calibration_is_without_stretches_of_few_patients(
    record: StudyRecord,
) -> None:
    said = "Stretches with fewer than 10 patients are left out"
    assert said in render(with_evidence(Report(record), (), [site_quality(record)]))
    assert said not in render(with_evidence(Report(record, local=True), (), [site_quality(record)]))
