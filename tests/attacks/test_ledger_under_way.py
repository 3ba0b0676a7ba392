"""The ledger's file taken away, copied over, filled up or half made while workers use it."""

from __future__ import annotations

import math
import shutil
import sqlite3
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from primia.config.site import Caps, DataSource, LedgerFile, SiteConfig
from primia.errors import BudgetExhausted, PolicyRefused, StateError
from primia.privacy import DpSgd, Ledger, Members
from primia.privacy import ledger as module
from primia.types import sha256
from worker.approval import _plain
from worker.books import init_ledger, key_path

A, B = (Members("k", {bytes([n] * 16): frozenset()}) for n in (1, 2))


def charge(ledger: Ledger, number: int = 1, members: Members = A, **which: Any) -> None:
    given: dict[str, Any] = {
        "plan": sha256(b"plan"), "round_number": number, "attempt": number,
        "mechanism": DpSgd(0.1, 2.0, 1), "update": sha256(b"update %d" % number),
        "cap_epsilon": 99.0, "cap_delta": 1e-3, "time": "t", "members": members,
    }  # fmt: skip
    ledger.charge(**(given | which))


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_nothing_is_released_once_the_ledgers_file_is_another(tmp_path: Path, how: str) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path, create=True) as ledger:
        charge(ledger)
        if how == "replaced":
            shutil.copy(path, tmp_path / "copy")
            (tmp_path / "copy").rename(path)
        else:
            path.unlink()
        with pytest.raises(StateError, match="moved or replaced"):
            charge(ledger, 2)


def test_the_same_bytes_made_of_other_patients_are_not_free(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", create=True) as ledger:
        charge(ledger)
        charge(ledger)
        with pytest.raises(PolicyRefused, match="other patients"):
            charge(ledger, members=B)
        assert len(ledger.rows()) == 1


@pytest.mark.parametrize("bad", [0, 1])
def test_a_figure_that_is_no_number_is_never_within_a_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    both = Members("k", {**A.films, **B.films})
    with Ledger(tmp_path / "ledger.db", create=True) as ledger:
        charge(ledger)
        charge(ledger, 2, B, mechanism=DpSgd(0.1, 3.0, 1))
        sums = iter([math.nan, 1.0] * 9 if bad == 0 else [1.0, math.nan] * 9)
        monkeypatch.setattr(module, "epsilon", lambda *_: next(sums))
        with pytest.raises(BudgetExhausted):
            charge(ledger, 3, both)


def test_a_full_disk_is_named_and_the_next_charge_goes_through(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", create=True) as ledger:
        charge(ledger)
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count = {pages}")
        big = Members("k", {i.to_bytes(16, "big"): frozenset() for i in range(5000)})
        with pytest.raises(StateError, match="full"):
            charge(ledger, 2, big)
        ledger._db.execute("PRAGMA max_page_count = 100000")
        charge(ledger, 2, big)
        assert [row.round for row in ledger.rows()] == [1, 2]
        ledger.verify()


def test_a_ledger_whose_making_was_killed_is_made_by_the_next_try(tmp_path: Path) -> None:
    config = SiteConfig(
        data=DataSource(kind="npz", path=tmp_path / "x.npz"),
        caps=Caps(max_epsilon=8.0, max_delta=1e-3),
        ledger=LedgerFile(path=tmp_path / "privacy" / "ledger.db"),
    )
    path = tmp_path / "privacy" / "ledger.db"
    path.parent.mkdir(mode=0o700)
    path.touch(mode=0o600)  # the first thing that is done; then kill -9
    assert init_ledger(tmp_path, config) == path
    path.write_bytes(b"")  # a ledger that was cut off has its key, and is not begun anew
    assert key_path(path).exists()
    with pytest.raises(StateError, match="is there already"):
        init_ledger(tmp_path, config)
    with pytest.raises((StateError, sqlite3.Error)):
        Ledger(path)


@pytest.mark.parametrize(
    "other",
    ["  jürgen   MÜLLER", unicodedata.normalize("NFD", "Jürgen Müller"), "Jürgen\u200b Müller"],
)
def test_one_approver_typed_in_two_ways_is_one(other: str) -> None:
    assert _plain(other) == _plain("Jürgen Müller")
