"""The annex says what the plan says, and what each kind of privacy means, in either form."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from primia.annex import Document, annex, to_html, to_markdown
from primia.annex.content import what_leaves
from primia.config import StudyPlan, load_plan, load_site, plan_digest
from primia.settle import settle

ROOT = Path(__file__).parents[2]
SITE = load_site(ROOT / "configs" / "site.example.yaml")


def example(name: str = "study.example.yaml", **changes: object) -> StudyPlan:
    plan = load_plan(ROOT / "configs" / name)
    return settle(StudyPlan.model_validate({**plan.model_dump(), **changes}))


def filled(plan: StudyPlan, site: object = SITE) -> Document:
    return annex(plan, site, made="2026-01-02", version="9.9")  # type: ignore[arg-type]


def text(plan: StudyPlan, site: object = SITE) -> str:
    return to_markdown(filled(plan, site))


class Words(HTMLParser):
    """The text and the tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said = ""
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.said += data


@pytest.fixture(scope="module")
def plan() -> StudyPlan:
    return example()


def test_both_forms_hold_the_plans_figures(plan: StudyPlan) -> None:
    for said in (text(plan), Words(to_html(filled(plan))).said):
        for fact in (
            plan_digest(plan),
            "12 rounds of 10 step(s)",
            "7.997",  # of the accountant: tests/privacy
            "noise multiplier 1.406",
            "3: hospital-a, hospital-b, hospital-c",
            "normal, bacterial, viral",
            "the sum of at least 3 hospitals",
            "2026-01-02, by primia 9.9",
        ):
            assert fact in said.replace("\\", "")


def test_the_bound_is_put_into_words_that_do_not_flatter(plan: StudyPlan) -> None:
    said = text(plan)
    assert "99.97 % sure at the most" in said  # 1 / (1 + exp(-7.997))
    assert "no reason to call the model anonymous" in said
    strong = example(privacy={"delta": 1e-5, "noise_multiplier": 60.0})
    assert "no reason to call" not in text(strong)


def test_each_kind_of_privacy_says_plainly_whom_it_relies_on(plan: StudyPlan) -> None:
    shared = example("study.distributed.example.yaml")
    none = example(privacy="none")
    by_kind = {"site": text(plan), "distributed": text(shared), "none": text(none)}
    says = {
        "site": "nobody: each hospital adds all of the noise itself",
        "distributed": "Protection that relies on other hospitals",
        "none": "nothing limits what the model itself shows of a patient",
    }
    for kind, said in by_kind.items():
        assert [k for k, words in says.items() if words in said] == [kind]
    assert f"at most {shared.colluding_sites} of the hospitals" in by_kind["distributed"]
    assert "DP-SGD" not in by_kind["none"]
    assert "ε still holds" not in by_kind["none"]
    assert "ε still holds" not in by_kind["distributed"]
    assert to_html(filled(none)).count('class="alarm"') == 1
    assert 'class="alarm"' not in to_html(filled(plan))


def test_what_a_plan_may_add_to_what_leaves_is_named_with_its_risk(plan: StudyPlan) -> None:
    more = example(
        aggregation={"weighting": "patients", "max_patients": 1000},
        evaluation={"vote_tolerance": 0.05},
    )
    assert any("number of patients" in line for line in what_leaves(more))
    assert not any("number of patients" in line for line in what_leaves(plan))
    assert "exact total over the hospitals becomes known" in text(more)
    assert "this hospital's vote is known" in text(more)
    assert "vote" not in " ".join(what_leaves(plan))


def test_a_plan_beyond_the_hospitals_limits_is_said_to_be_refused(plan: StudyPlan) -> None:
    assert "beyond" not in text(plan)
    strict = SITE.model_copy(update={"caps": SITE.caps.model_copy(update={"max_epsilon": 2.0})})
    line = next(x for x in text(plan, strict).splitlines() if "caps.max\\_epsilon" in x)
    assert "beyond: this hospital refuses the plan" in line
    assert "refuses the plan" in text(example("study.distributed.example.yaml"))  # not allowed here
    assert "refuses the plan" in text(example(privacy="none"))


def test_every_cap_of_the_site_file_is_shown_and_no_path_of_it() -> None:
    said = text(example()).replace("\\", "")
    assert all(f"caps.{key}" in said for key in SITE.caps.model_dump())
    assert str(SITE.data.path) not in said
    assert SITE.data.path.name not in said


def test_each_document_that_the_annex_refers_to_exists(plan: StudyPlan) -> None:
    named = set(re.findall(r"docs/[\w-]+\.md", text(plan)))
    assert len(named) >= 5
    assert all((ROOT / name).exists() for name in named)


def test_there_is_a_line_to_sign_for_each_approver(plan: StudyPlan) -> None:
    two = SITE.model_copy(update={"approval": SITE.approval.model_copy(update={"approvers": 2})})
    assert "| data steward |" not in text(plan)
    assert "| data steward |  |  |  |" in text(plan, two)
    assert "Approval by 2 people" in text(plan, two)


HOSTILE = "<script>alert(1)</script> | [x](javascript:1) `a` <img src=x>\x1b[31m\n# head"


def test_a_hostile_purpose_is_text_in_either_form() -> None:
    plan = example(purpose=HOSTILE)
    page = Words(to_html(filled(plan)))
    assert "<script>alert(1)</script>" in page.said
    assert not page.tags & {"script", "img", "a", "iframe", "link"}
    assert "\x1b" not in page.said
    lines = text(plan).splitlines()
    row = next(line for line in lines if "alert" in line)
    assert row.count("|") - row.count("\\|") == 3  # one row of two cells
    assert "<script" not in row
    assert "](" not in row.replace("\\](", "")
    assert "# head" not in lines


def test_the_page_fetches_nothing(plan: StudyPlan) -> None:
    page = to_html(filled(plan))
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "primia", "plan", "annex", *map(str, arguments)],
        env={**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_writes_a_new_file_and_never_over_one(tmp_path: Path) -> None:
    plan, site = (ROOT / "configs" / f"{name}.example.yaml" for name in ("study", "site"))
    target = tmp_path / "annex.html"
    done = run(plan, target, "--site", site)
    assert done.returncode == 0, done.stderr
    assert plan_digest(example()) in done.stdout
    assert "caps.max_epsilon" in target.read_text()
    again = run(plan, target)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert "caps.max_epsilon" in target.read_text()
    assert run(plan, tmp_path / "annex.pdf").returncode == 2
