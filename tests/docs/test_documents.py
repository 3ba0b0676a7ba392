"""Documents name commands, files and tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.docs.commands import Line, command_lines, mistake

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_each_command_in_a_document_is_one_that_the_tools_know(page: Path) -> None:
    wrong = [
        f"{page.name}:{line.number}: {line.text}: {said}"
        for line in command_lines(page.read_text())
        if (said := mistake(line)) is not None
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["README.md", "docs/operations.md"])
def test_the_pages_for_operators_show_commands_of_all_three_tools(name: str) -> None:
    lines = list(command_lines((ROOT / name).read_text()))
    assert {line.text.split()[0] for line in lines} >= {
        "primia",
        "primia-coordinator",
        "primia-worker",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("primia-worker plan show --config site.yaml", None),
        ("primia-worker plan show|approve|refuse", None),
        ("primia-worker plan show|prove", "no command prove"),
        ("primia-worker plan show --confg site.yaml", "no option --confg"),
        ("primia-coordinator invite a b", "2 arguments, and it takes 1"),
        ("primia-coordinator invite a", "--address is missing"),
        ("primia-coordinator start --stay | tee log", None),
        ("primia plan price", "an argument is missing"),
        ("primia --version", None),
    ],
)
def test_the_check_finds_what_a_tool_would_refuse(text: str, said: str | None) -> None:
    assert mistake(Line(1, text, whole=True)) == said


def test_commands_are_found_in_blocks_in_prose_and_behind_other_programs() -> None:
    page = (
        "Ask `primia-worker peers` or\n`primia-worker\nbudget`.\n\n```\n"
        "primia plan check a.yaml   # every mistake\n"
        "docker exec w primia-worker budget \\\n  --config s.yaml\n"
        "/opt/primia/bin/primia bundle verify .\n# primia nonsense\n```\n"
    )
    assert [line.text for line in command_lines(page)] == [
        "primia plan check a.yaml",
        "primia-worker budget   --config s.yaml",
        "primia bundle verify .",
        "primia-worker peers",
        "primia-worker budget",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_each_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = page if not path else page.parent / path
        assert file.exists(), target
        assert not heading or heading in _anchors(file), target


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_each_test_that_a_document_names_exists(page: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", page.read_text()))
    assert not named - _tests()


def _tests() -> set[str]:
    return {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_each_make_target_that_a_document_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"(?:`|^)make ((?:[a-z][a-z-]* ?)+)", page.read_text(), flags=re.M))
    wanted = {word for words in named for word in words.split()}
    assert not wanted - targets


def test_what_an_operator_sees_is_what_the_programs_say() -> None:
    """The first column of "What to do when": each text in code marks is in the source."""
    source = " ".join(
        " ".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text()).split())
        for folder in ("primia", "worker", "coordinator")
        for path in (ROOT / folder).rglob("*.py")
    )
    page = (ROOT / "docs" / "recovery.md").read_text()
    table = page.split("## What to do when")[1].split("And what is decided")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    said = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    assert len(said) > 10
    pieces = [p.strip() for text in said for p in re.split(r"…|\bN\b", text) if p.strip()]
    assert [p for p in pieces if p not in source] == []
