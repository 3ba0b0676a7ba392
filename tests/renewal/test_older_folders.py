"""Folders written before there were renewals and rotations open, and go on."""

from __future__ import annotations

import sqlite3

import pytest

from coordinator import home
from coordinator.schema import MIGRATIONS
from coordinator.state import CoordinatorState
from primia.errors import StateError
from primia.identity import authority, keyfile
from primia.identity.certificate import to_pem
from primia.storage.book import NOTES
from primia.storage.database import Database
from tests.renewal.study import PLAN


@pytest.fixture
def older(tmp_path):
    """As the version before left it: certificates in files, no table of authorities."""
    folder = tmp_path / "c"
    made = authority.create(folder / "authority", PLAN.study, now=home.now(), valid_days=99)
    key = keyfile.new_key()
    own = made.issue_coordinator(key.public_key(), PLAN.study, now=home.now(), valid_days=9)
    keyfile.store_key(folder / "identity" / "coordinator.key", key)
    keyfile.store(folder / "identity" / "coordinator.pem", to_pem(own))
    before = next(i for i, sql in enumerate(MIGRATIONS) if "TABLE authorities" in sql)
    Database(folder / "coordinator.db", [NOTES, *MIGRATIONS[:before]]).close()
    with sqlite3.connect(folder / "coordinator.db") as db:
        db.execute("INSERT INTO sites VALUES ('east', X'00', 'ab', 0, NULL, NULL)")
        db.execute("INSERT INTO meta VALUES ('study', ?)", (PLAN.study,))
    return folder, own


def test_an_older_coordinator_takes_its_files_over(older):
    folder, own = older
    state = CoordinatorState(folder)
    certificate, _ = home.coordinator_identity(folder, state)
    assert certificate == own
    assert [s.seen for s in state.sites()] == [True]
    assert len(home.valid_authorities(folder, state)) == 1
    state.close()
    again = CoordinatorState(folder)
    (folder / "authority").rename(folder / "elsewhere")  # from now on it may be offline
    assert home.coordinator_identity(folder, again)[0] == own
    assert home.made_before(folder, PLAN.study)
    again.close()


def test_an_older_coordinator_whose_authority_is_away_is_told_what_is_missing(older):
    folder, _ = older
    (folder / "authority").rename(folder / "elsewhere")
    state = CoordinatorState(folder)
    with pytest.raises(StateError, match=r"authority\.pem"):
        home.valid_authorities(folder, state)
    state.close()
