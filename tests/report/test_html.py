from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from primia.report.html import render
from primia.report.record import Absence, StudyRecord, from_json, to_json
from primia.report.report import Prices, Report

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(1)>"""


def page_of(record: StudyRecord, **prices: Any) -> str:
    return render(Report(record, Prices(**prices)))


class Page(HTMLParser):
    """All elements with their attributes, and the text of each page element by tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._skip = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._skip += tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._skip -= tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.text += data

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    def with_class(self, name: str) -> list[str]:
        return [t for t, a in self.elements if name in (a.get("class") or "").split()]


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_page_reaches_for_nothing_outside_itself(html: str, page: Page) -> None:
    assert not page.tags() & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{name} is an event handler"
            if name in {"src", "href", "xlink:href", "action", "data", "srcset"}:
                assert (value or "").startswith("#"), f"{name}={value}"
    # The two names of XML namespaces are identifiers, never fetched.
    without_names = re.sub(r'xmlns(:xlink)?="http://www\.w3\.org/[^"]*"', "", html)
    assert not re.search(r"https?://|//[a-z]+\.|@import|@font-face", without_names)
    assert re.findall(r"url\((?!#)", html) == []


def test_ids_are_unique_over_all_figures_and_every_reference_meets_one(page: Page) -> None:
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids)) > 20
    used = {a["xlink:href"] or "" for _, a in page.elements if "xlink:href" in a}
    values = [v or "" for _, a in page.elements for v in a.values()]
    used |= {m for v in values for m in re.findall(r"url\((#[^)]*)\)", v)}
    assert used
    assert used <= {f"#{i}" for i in ids}


def test_page_shows_what_the_record_says(page: Page, record: StudyRecord) -> None:
    for said in (
        "paediatric-cxr",
        "finished",
        "2026-03-04",
        record.plan_digest,
        "15,234 weights",
        "0.893",  # best AUC
        "0.887",  # last AUC
        "ε 7.96",
        "δ = 1×10⁻⁴; add or remove one patient",
        "2 of 4 masked updates arrived",
        "not ready when the grace time ended",
        record.sites[2].certificate,
        "torch\u00a02.13.0",
        "noise_multiplier",
    ):
        assert said in page.text, said


def test_page_says_what_its_figures_do_not_say(page: Page) -> None:
    text = " ".join(page.text.split())
    for limit in (
        "not a medical device",
        "exact sums over three hospitals or more, with no noise",
        "no validation patient is a training patient",
        "against anybody who sees the models",
        "A dishonest hospital is not detected for certain",
    ):
        assert limit in text, limit


def test_grid_has_a_row_for_every_attempt_and_a_cell_for_every_site(page: Page) -> None:
    states = {s: len(page.with_class(s)) for s in ("in", "lost", "void")}
    # One of each state is its key below the grid.
    assert states == {"in": 9 * 4 - 2 + 1, "lost": 2 + 2 + 1, "void": 2 + 1}
    assert len(page.with_class("aborted")) == 1


def test_epsilon_is_drawn_only_from_the_given_figures(html: str, record: StudyRecord) -> None:
    assert "Privacy loss ε spent" in html
    assert "Privacy loss ε spent" not in page_of(record)


def test_study_without_privacy_carries_the_banner_and_no_epsilon(
    html: str, no_privacy: StudyRecord, epsilon_by_round: dict[int, float]
) -> None:
    without = page_of(no_privacy, epsilon_by_round=epsilon_by_round)
    assert 'class="alarm"' in without
    assert "No differential privacy" in Page(without).text
    assert "7.96" not in Page(without).text
    assert "Privacy loss ε spent" not in without
    assert 'class="alarm"' not in html


def test_plan_that_does_not_speak_of_privacy_counts_as_none(record: StudyRecord) -> None:
    assert 'class="alarm"' in page_of(replace(record, plan={}))


def _in_a_reason(record: StudyRecord) -> StudyRecord:
    attempts = [replace(a, reason=HOSTILE) for a in record.attempts]
    attempts[2] = replace(attempts[2], absent=(Absence("hospital-c", HOSTILE, HOSTILE),))
    return replace(record, attempts=tuple(attempts))


def _in_names(record: StudyRecord) -> StudyRecord:
    sites = tuple(replace(s, site=HOSTILE, certificate=HOSTILE) for s in record.sites)
    return replace(
        record, study=HOSTILE, state=HOSTILE, plan_digest=HOSTILE, sites=sites,
        versions={HOSTILE: HOSTILE},
    )  # fmt: skip


def _in_the_plan(record: StudyRecord) -> StudyRecord:
    model = {**record.plan["model"], "name": HOSTILE, "classes": [HOSTILE, "a$b$", "c_{d}"]}
    return replace(record, plan={**record.plan, "purpose": HOSTILE, "model": model})


@pytest.mark.parametrize("poison", [_in_a_reason, _in_names, _in_the_plan])
def test_hostile_text_stays_text(
    record: StudyRecord, poison: Callable[[StudyRecord], StudyRecord]
) -> None:
    page = Page(page_of(poison(record)))
    assert not page.tags() & {"script", "img"}
    assert not [n for _, a in page.elements for n in a if n.startswith("on")]
    assert "<script>alert(1)</script>" in page.text


def test_study_that_has_just_started_renders(empty: StudyRecord) -> None:
    text = Page(page_of(empty)).text
    assert "No round has been committed yet" in text
    assert "no model has been evaluated yet" in text


def test_models_without_scores_page_of(record: StudyRecord) -> None:
    models = tuple(replace(m, scores=None) for m in record.models)
    page = Page(page_of(replace(record, models=models, best=None)))
    assert "No model has been evaluated yet" in page.text
    assert "svg" not in page.tags()


def test_round_that_is_open_shows_as_open(record: StudyRecord) -> None:
    last = replace(record.attempts[-1], outcome="open", closed_at=None, contributors=())
    running = replace(record, state="running", attempts=(*record.attempts[:-1], last))
    assert len(Page(page_of(running)).with_class("open")) == 1 + 4  # the row and its cells


def test_two_classes_give_one_roc_panel(two_classes: StudyRecord) -> None:
    html = page_of(two_classes)
    assert "pneumonia against normal" in html
    assert "against the rest" not in html


def test_confusion_gives_counts_and_shares_of_the_true_class(page: Page) -> None:
    assert re.search(r"289\s*87\.0 %", page.text)  # of 332 normal films, by the last model


def test_record_read_back_from_json_gives_the_same_page(
    html: str, record: StudyRecord, epsilon_by_round: dict[int, float]
) -> None:
    assert page_of(from_json(to_json(record)), epsilon_by_round=epsilon_by_round) == html


def test_rejected_models_are_listed_and_are_neither_best_nor_last(record: StudyRecord) -> None:
    attempts = [replace(a, votes=len(a.contributors)) for a in record.attempts]
    attempts[-1] = replace(attempts[-1], votes=1, returned_to=7)
    models = tuple(replace(m, accepted=m.number != 8) for m in record.models)
    study = from_json(to_json(replace(record, attempts=tuple(attempts), models=models)))
    page = Page(page_of(study))
    assert "Models that the sites rejected" in page.text
    assert "returned to the model of round 7: 1 of 4 sites accepted" in page.text
    assert "best and last (round 7)" in page.text
    assert "Models that the sites rejected" not in Page(page_of(record)).text


def test_weaker_anonymity_of_groups_is_said(html: str, record: StudyRecord) -> None:
    aggregation = {**record.plan["aggregation"], "groups": 3}
    said = "A hospital hides among its group only"
    assert (
        said
        in Page(page_of(replace(record, plan={**record.plan, "aggregation": aggregation}))).text
    )
    assert said not in Page(html).text


def test_noise_that_sites_share_is_never_called_independent(html: str, record: StudyRecord) -> None:
    alone = "does not rely on anybody else"
    assert alone in html
    record.plan["privacy"].update(noise="distributed", colluding_sites=2)
    shared = " ".join(page_of(record).split())
    assert alone not in shared
    assert "against the coordinator together with up to 2 of them" in shared


def test_a_result_written_before_there_were_votes_is_still_read(record: StudyRecord) -> None:
    raw = json.loads(to_json(record))
    for attempt in raw["attempts"]:
        del attempt["votes"], attempt["returned_to"]
    for model in raw["models"]:
        del model["accepted"]
    assert from_json(json.dumps(raw)) == record
