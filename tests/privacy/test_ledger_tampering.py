"""Whoever edits the ledger is found; of two who race for the last ε one loses."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest
from test_cohorts import DELTA, ROUND, charge, fingerprint, members

from primia.errors import StateError
from primia.privacy import DpSgd, Ledger, epsilon
from primia.privacy.chain import COLUMNS, TO_VERSION

OTHER = {
    "number": "9", "plan": "'x'", "round": "7", "attempt": "7", "sampling_rate": "0.01",
    "noise_multiplier": "9.0", "steps": "1", "delta": "0.5", "update_digest": f"'{'ab' * 16}'",
    "time": "'x'", "previous": "'x'", "digest": "'x'", "kind": "'distributed'", "study": "'x'",
    "site": "'x'", "cohort": "NULL",
}  # fmt: skip


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "ledger.db"
    with Ledger(path, create=True) as ledger:
        charge(ledger, 1, members("ab"))
        charge(ledger, 2, members("bc"))
        ledger.withdraw(fingerprint("c"), "k", "2026-02-01")
        charge(ledger, 3, members("b"))
    return path


def tamper(path, *statements):
    db = sqlite3.connect(path)
    for table in ("ledger", "cohorts"):
        db.execute(f"DROP TRIGGER {table}_keeps_rows")
        db.execute(f"DROP TRIGGER {table}_keeps_values")
    for statement in statements:
        assert db.execute(statement).rowcount > 0
    db.commit()
    db.close()


def test_every_column_has_a_forgery_here():
    assert OTHER.keys() == set(COLUMNS)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", [2, 3])
def test_an_edit_of_any_column_is_found_and_stops_further_charges(path, column, row):
    other = "'x'" if (row, column) == (3, "cohort") else OTHER[column]  # there it is NULL already
    tamper(path, f"UPDATE ledger SET {column} = {other} WHERE number = {row}")
    with Ledger(path) as ledger:
        with pytest.raises(StateError, match="row"):
            ledger.verify()
        with pytest.raises(StateError):
            charge(ledger, 4, members("b"))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM ledger WHERE number = 3",  # a withdrawal undone
        "DELETE FROM ledger WHERE number = 1",
        "DELETE FROM cohorts WHERE digest = (SELECT cohort FROM ledger WHERE number = 1)",
        "UPDATE cohorts SET content = substr(content, 1, length(content) - 36)",
        "UPDATE cohorts SET content = 'text'",
        "UPDATE ledger SET cohort = (SELECT cohort FROM ledger WHERE number = 4) WHERE number = 1",
    ],
)
def test_whom_a_row_charges_cannot_be_changed(path, statement):
    tamper(path, statement)
    with Ledger(path) as ledger, pytest.raises(StateError, match="was changed"):
        ledger.verify()


def test_cohorts_are_append_only(path):
    with sqlite3.connect(path) as db:
        for statement in ("DELETE FROM cohorts", "UPDATE cohorts SET content = x'00'"):
            with pytest.raises(sqlite3.DatabaseError, match="append-only"):
                db.execute(statement)
    db.close()


def test_an_older_copy_of_the_file_is_found_by_the_head(path, tmp_path):
    shutil.copy(path, tmp_path / "old.db")
    with Ledger(path) as ledger:
        charge(ledger, 4, members("b"))
        head = ledger.head()
    with Ledger(tmp_path / "old.db") as old, pytest.raises(StateError, match="older"):
        old.verify(at_least=head)


SPEND = """
import os, pathlib, sys, time
sys.path[:0] = sys.argv[3:]
from test_cohorts import DELTA, ROUND, charge, members
from primia.errors import BudgetExhausted
from primia.privacy import DpSgd, Ledger, epsilon
path, name = pathlib.Path(sys.argv[1]), sys.argv[2]
cap = epsilon([DpSgd(0.36, 2.0, 10)], DELTA)
with Ledger(path) as ledger:
    pathlib.Path(f"{path}.{name}").touch()
    while not pathlib.Path(f"{path}.go").exists():
        time.sleep(0.001)
    try:
        charge(ledger, 1, members("z"), plan=name.encode(), cap=cap)
        print("passed")
    except BudgetExhausted:
        print("refused")
"""


def test_of_two_studies_that_charge_at_once_only_one_gets_the_last_of_the_budget(tmp_path):
    path = tmp_path / "ledger.db"
    Ledger(path, create=True).close()
    here = [os.path.dirname(__file__), os.getcwd()]
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", SPEND, str(path), name, *here], stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    ]
    until = time.monotonic() + 120
    while not all((tmp_path / f"ledger.db.{n}").exists() for n in ("one", "two")):
        assert time.monotonic() < until
        time.sleep(0.01)
    (tmp_path / "ledger.db.go").touch()
    assert sorted(p.communicate(timeout=120)[0].strip() for p in racing) == ["passed", "refused"]
    with Ledger(path) as ledger:
        assert ledger.verify().rows == 1
        assert ledger.spent(DELTA) == epsilon([ROUND], DELTA)


def test_a_ledger_of_version_2_opens_and_its_rows_count_for_every_patient(path, tmp_path):
    old = tmp_path / "old.db"
    with Ledger(old, create=True) as ledger:
        charge(ledger, 1, None)
    db = sqlite3.connect(old)
    # As version 2 made it: without cohorts, study and site.
    row = db.execute("SELECT * FROM ledger").fetchone()
    db.executescript("DROP TABLE ledger; DROP TABLE cohorts;")
    from primia.privacy.chain import SCHEMA, Row, from_columns, row_digest

    create = SCHEMA[0].replace("    study TEXT,\n    site TEXT,\n", "")
    lines = [line for line in create.splitlines() if not line.strip().startswith("cohort TEXT")]
    db.execute("\n".join(lines))
    made = from_columns([*row[:-3], None, None, None])
    assert isinstance(made, Row)
    marks = ", ".join("?" * (len(row) - 3))
    values = [*row[:-5], row_digest(made), row[-4]]
    db.execute(f"INSERT INTO ledger VALUES ({marks})", values)
    db.execute("PRAGMA user_version = 2")
    db.commit()
    db.close()
    assert 3 in TO_VERSION
    with Ledger(old) as ledger:
        assert ledger.verify().rows == 1
        assert ledger.spent(DELTA, members("x")) == epsilon([ROUND], DELTA)
        charge(ledger, 2, members("x"))
        assert ledger.spent(DELTA, members("x")) == epsilon([DpSgd(0.36, 2.0, 20)], DELTA)
        assert ledger.spent(DELTA, members("y")) == epsilon([ROUND], DELTA)
