"""`docs/attacks.md` names tests that exist, one at least for each of its rows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TABLE = (TESTS.parent / "docs" / "attacks.md").read_text()
ROWS = [line for line in TABLE.splitlines() if re.match(r"\| \d", line)]


def existing() -> dict[str, bool]:
    """Every test function, and whether it is marked as an expected failure."""
    found = {}
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = [ast.unparse(d) for d in node.decorator_list]
                found[node.name] = any(".xfail" in mark for mark in marks)
    return found


def test_the_tables_rows_are_numbered_and_each_names_a_test():
    assert [int(row.split("|")[1]) for row in ROWS] == list(range(1, len(ROWS) + 1))
    assert len(ROWS) >= 28
    assert all("`test_" in row for row in ROWS)


def test_every_test_that_the_table_names_exists():
    named = set(re.findall(r"`(test_\w+)`", TABLE))
    assert named
    assert not named - set(existing())


def test_the_table_sets_in_bold_what_is_expected_to_fail_and_nothing_else():
    expected = existing()
    bold = set(re.findall(r"\*\*`(test_\w+)`\*\*", TABLE))
    assert bold == {n for n in re.findall(r"`(test_\w+)`", TABLE) if expected[n]}


def test_every_module_that_the_table_names_exists():
    for name in re.findall(r"`((?:\w+/)+\w+\.py)`", TABLE):
        root = TESTS.parent
        assert (root / name).exists() or (root / "primia" / name).exists(), name
