"""A ledger's figure is priced again; one that is too low is refuted. No chance is in these."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from primia.audit.ledger import audit_ledger
from primia.errors import ConfigError, DataError, StateError
from primia.findings import Verdict
from primia.privacy import DistributedDpSgd, DpSgd, Ledger, Mechanism
from primia.privacy.statement import statement
from primia.storage.book import Book
from primia.types import sha256


def ledger_of(folder: Path, *mechanisms: Mechanism | None) -> Path:
    file = folder / "ledger.db"
    with Ledger(file, create=True) as ledger:
        for number, mechanism in enumerate(mechanisms, start=1):
            ledger.charge(
                plan=sha256(b"plan"),
                round_number=number,
                attempt=number,
                mechanism=mechanism,
                update=sha256(str(number).encode()),
                cap_epsilon=float("inf"),
                cap_delta=1e-5,
                time="2026-01-01T00:00:00+00:00",
            )
    return file


def claim(folder: Path, factor: float) -> Path:
    """A statement of the folder's ledger, with its ε times `factor`."""
    with Ledger(folder / "ledger.db") as ledger:
        made = statement(ledger, cap=10.0, delta=1e-5, time="now", site="east")
    made["epsilon_spent"] *= factor
    return written(folder, made)


def written(folder: Path, content: dict[str, Any]) -> Path:
    """As `primia-worker ledger statement` writes it."""
    file = folder / "statement.json"
    file.write_text(json.dumps({"statement": content, "signature": "00", "certificate": ""}))
    return file


def test_an_honest_ledger_is_not_refuted_and_nothing_of_it_is_changed(tmp_path: Path) -> None:
    file = ledger_of(tmp_path, *[DpSgd(0.1, 2.0, 125)] * 4)
    before = file.read_bytes()
    found = audit_ledger(tmp_path)
    assert found.verdict is Verdict.NOT_REFUTED
    assert found.figures["epsilon_claimed"] == pytest.approx(5.556, abs=1e-3)
    assert found.figures["epsilon_above"] == pytest.approx(6.090, abs=0.002)
    assert found.figures["releases"] == 4
    assert file.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} <= {"ledger.db", "ledger.db-wal", "ledger.db-shm"}


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "not refuted"), (0.97, "refuted")])
def test_a_statement_that_says_less_than_was_spent_is_refuted(
    tmp_path: Path, factor: float, verdict: str
) -> None:
    ledger_of(tmp_path, *[DpSgd(0.2, 1.4, 10)] * 12)
    found = audit_ledger(tmp_path, statement=claim(tmp_path, factor))
    assert found.verdict.value == verdict, found.answer


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "not refuted"), (0.9, "refuted")])
def test_shared_noise_is_held_against_its_own_divergences(
    tmp_path: Path, factor: float, verdict: str
) -> None:
    ledger_of(tmp_path, *[DistributedDpSgd(0.2, 1.4, 1)] * 30)
    found = audit_ledger(tmp_path, statement=claim(tmp_path, factor))
    assert found.verdict.value == verdict, found.answer


def test_the_limit_theorem_in_place_of_a_bound_is_refuted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from primia.privacy import epsilon_gdp, ledger

    ledger_of(tmp_path, DpSgd(0.01, 0.6, 100))
    monkeypatch.setattr(ledger, "epsilon", epsilon_gdp)
    assert audit_ledger(tmp_path).verdict is Verdict.REFUTED


def test_forgotten_steps_are_refuted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PriMIA forgot the steps before a resume."""
    from primia.privacy import epsilon, ledger

    ledger_of(tmp_path, *[DpSgd(0.1, 1.0, 20)] * 5)
    monkeypatch.setattr(ledger, "epsilon", lambda m, delta: epsilon(m[-1:], delta))
    assert audit_ledger(tmp_path).verdict is Verdict.REFUTED


def test_a_release_without_privacy_has_no_bound_and_no_statement_may_name_one(
    tmp_path: Path,
) -> None:
    ledger_of(tmp_path, DpSgd(0.1, 1.0, 5), None)
    assert audit_ledger(tmp_path).verdict is Verdict.TOLD
    with Ledger(tmp_path / "ledger.db") as ledger:
        made = statement(ledger, cap=10.0, delta=1e-5, time="now", site="east")
    assert made["epsilon_spent"] is None
    file = written(tmp_path, made | {"epsilon_spent": 3.0})
    assert audit_ledger(tmp_path, statement=file).verdict is Verdict.REFUTED


def cut(folder: Path, after: int) -> None:
    """Take the last rows off a ledger; what is left is a chain that holds."""
    db = sqlite3.connect(folder / "ledger.db", isolation_level=None)
    db.execute("DROP TRIGGER ledger_keeps_rows")
    db.execute("DELETE FROM ledger WHERE number > ?", (after,))
    db.close()


def test_rows_cut_off_at_the_end_are_missed_by_the_statement_and_by_the_database_beside_it(
    tmp_path: Path,
) -> None:
    ledger_of(tmp_path, *[DpSgd(0.1, 2.0, 10)] * 4)
    said = claim(tmp_path, 1.0)
    with Ledger(tmp_path / "ledger.db") as ledger:
        head = ledger.head()
    cut(tmp_path, after=3)
    assert audit_ledger(tmp_path).verdict is Verdict.NOT_REFUTED  # nothing here knows better
    with pytest.raises(StateError, match="row"):
        audit_ledger(tmp_path, statement=said)
    book = Book(tmp_path / "worker.db", ())
    book.note("ledger_head", str(head))
    with pytest.raises(StateError, match="row"):
        audit_ledger(tmp_path)
    book.note("ledger_head", "three")
    book.close()
    with pytest.raises(StateError, match="the note is damaged"):
        audit_ledger(tmp_path)


def test_a_statement_is_held_against_the_rows_and_the_delta_that_it_is_about(
    tmp_path: Path,
) -> None:
    ledger_of(tmp_path, *[DpSgd(0.1, 2.0, 10)] * 3)
    said = claim(tmp_path, 0.5)
    with pytest.raises(ConfigError, match="leave --delta out"):  # a larger one would let it pass
        audit_ledger(tmp_path, statement=said, delta=0.5)
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.charge(
            plan=sha256(b"plan"),
            round_number=4,
            attempt=4,
            mechanism=DpSgd(0.1, 2.0, 10),
            update=sha256(b"4"),
            cap_epsilon=float("inf"),
            cap_delta=1e-5,
            time="2026-01-01T00:00:00+00:00",
        )
    with pytest.raises(DataError, match="about 3 rows, and the ledger has 4"):
        audit_ledger(tmp_path, statement=said)


def test_an_empty_ledger_costs_nothing(tmp_path: Path) -> None:
    found = audit_ledger(ledger_of(tmp_path))
    assert (found.verdict, found.figures["epsilon_claimed"]) == (Verdict.NOT_REFUTED, 0.0)


def test_what_is_not_a_ledger_a_statement_or_a_delta_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="worker's folder"):
        audit_ledger(tmp_path)
    file = ledger_of(tmp_path, DpSgd(0.1, 1.0, 5))
    with pytest.raises(ConfigError, match="delta 2"):
        audit_ledger(file, delta=2.0)
    wrong = tmp_path / "wrong.json"
    chain = '"delta": 1e-5, "chain": {"rows": 1, "head": "0"}'
    nan = f'{{"statement": {{"epsilon_spent": NaN, {chain}}}}}'
    for text in ("{}", "[]", "", "[" * 100_000, '{"epsilon_spent": 1, "delta": 1e-5}', nan):
        wrong.write_text(text)
        with pytest.raises(DataError, match=r"statement\.json"):
            audit_ledger(file, statement=wrong)
    with pytest.raises(ConfigError, match="delta 1e-300"):
        audit_ledger(file, delta=1e-300)
    db = sqlite3.connect(file)
    db.execute("DROP TRIGGER ledger_keeps_values")
    db.execute("UPDATE ledger SET noise_multiplier = 9.0")
    db.commit()
    db.close()
    with pytest.raises(StateError, match="changed at row 1"):
        audit_ledger(file)
