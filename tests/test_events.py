"""The catalogue of events is complete, and the document is made from it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from primia.events import AUDIT, LOG, as_markdown

ROOT = Path(__file__).parents[1]
SOURCES = [
    p for folder in ("primia", "coordinator", "worker") for p in (ROOT / folder).rglob("*.py")
]
NAMES = set(AUDIT) | set(LOG)
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def calls(path: Path) -> list[ast.Call]:
    tree = ast.parse(path.read_text())
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value in NAMES}


def logged(path: Path) -> list[tuple[int, ast.expr | None]]:
    """(line, first argument) of each call of a structured log, also through `_say_once`."""
    return [
        (call.lineno, call.args[0] if call.args else None)
        for call in calls(path)
        if call.func.attr == "_say_once"
        or (
            call.func.attr in LEVELS
            and ast.unparse(call.func.value) in {"log", "_log", "logger"}
            and not (call.args and ast.unparse(call.args[0]) == "event")
        )
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_log_call_names_an_event_of_the_catalogue(path):
    for line, name in logged(path):
        assert isinstance(name, ast.Constant), f"{path}:{line}: the event is not a fixed name"
        assert name.value in LOG, f"{path}:{line}: {name.value} is not in primia/events.py"


def test_every_event_of_the_log_catalogue_is_logged_somewhere():
    used = {n.value for p in SOURCES for _, n in logged(p) if isinstance(n, ast.Constant)}
    assert set(LOG) == used


def test_a_name_that_is_passed_on_comes_from_say_once_alone():
    passing = [p.name for p in SOURCES if "log.warning(event" in p.read_text()]
    assert set(passing) <= {"renewal.py"}


def test_every_audit_event_is_written_somewhere():
    written = {name for p in SOURCES if p.name != "events.py" for name in names_in(p)}
    assert set(AUDIT) - {"log_mended"} <= written


def test_the_document_is_made_from_the_catalogue():
    found = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    assert found == as_markdown(), "run: python -m primia.events > docs/events.md"


def test_no_field_of_the_audit_catalogue_is_about_patients_or_films():
    fields = {f for event in AUDIT.values() for f in event.fields}
    assert not {f for f in fields if any(w in f for w in ("patient", "film", "count", "path"))}
