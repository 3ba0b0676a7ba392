"""The database: durable, all or nothing, refusing what a newer version wrote."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading

import pytest

from primia.errors import StateError
from primia.storage.database import Database

ONE = ["CREATE TABLE charge (site TEXT NOT NULL, steps INTEGER NOT NULL CHECK (steps > 0)) STRICT"]


def rows(database):
    with database.transaction() as link:
        return [tuple(row) for row in link.execute("SELECT site, steps FROM charge")]


def test_it_runs_with_full_durability_and_foreign_keys(tmp_path):
    database = Database(tmp_path / "db", ONE)
    with database.transaction() as link:
        assert link.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert link.execute("PRAGMA synchronous").fetchone()[0] == 2
        assert link.execute("PRAGMA foreign_keys").fetchone()[0] == 1
    assert (tmp_path / "db").stat().st_mode & 0o777 == 0o600


def add(database, *steps, then=None):
    with database.transaction() as link:
        for n in steps:
            link.execute("INSERT INTO charge VALUES ('a', ?)", (n,))
        if then is not None:
            raise then


def test_a_block_that_raises_leaves_nothing(tmp_path):
    database = Database(tmp_path / "db", ONE)
    with pytest.raises(KeyError):
        add(database, 1, then=KeyError())
    with pytest.raises(sqlite3.IntegrityError):
        add(database, 1, 0)
    assert rows(database) == []


def test_a_committed_row_survives_a_kill(tmp_path):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom primia.storage.database import Database\n"
        f"db = Database(Path(sys.argv[1]), {ONE!r})\n"
        "with db.transaction() as link: link.execute(\"INSERT INTO charge VALUES ('a', 1)\")\n"
        "link.execute('BEGIN'); link.execute(\"INSERT INTO charge VALUES ('b', 1)\")\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "db")], check=False)
    assert done.returncode == -9
    assert rows(Database(tmp_path / "db", ONE)) == [("a", 1)]


def test_older_schemas_are_brought_up_and_newer_ones_refused(tmp_path):
    old = Database(tmp_path / "db", ONE)
    with old.transaction() as link:
        link.execute("INSERT INTO charge VALUES ('a', 1)")
    old.close()
    two = [*ONE, "ALTER TABLE charge ADD COLUMN note TEXT"]
    Database(tmp_path / "db", two).close()
    with pytest.raises(StateError, match="newer primia"):
        Database(tmp_path / "db", ONE)
    assert rows(Database(tmp_path / "db", two)) == [("a", 1)]


def test_a_failing_migration_leaves_the_old_version(tmp_path):
    Database(tmp_path / "db", ONE).close()
    with pytest.raises(sqlite3.OperationalError):
        Database(tmp_path / "db", [*ONE, "CREATE TABLE more (x); CREATE TABLE charge (y)"])
    assert rows(Database(tmp_path / "db", ONE)) == []


def test_threads_take_turns(tmp_path):
    database = Database(tmp_path / "db", ONE)

    def add():
        for _ in range(20):
            with database.transaction() as link:
                (n,) = link.execute("SELECT count(*) FROM charge").fetchone()
                link.execute("INSERT INTO charge VALUES ('a', ?)", (n + 1,))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(n for _, n in rows(database)) == list(range(1, 81))


def test_a_full_disk_is_a_state_error_and_keeps_what_was_committed(tmp_path):
    database = Database(tmp_path / "db", ONE)
    with database.transaction() as link:
        link.execute("INSERT INTO charge VALUES ('a', 1)")
        pages = link.execute("PRAGMA page_count").fetchone()[0]
        link.execute(f"PRAGMA max_page_count = {pages}")
    with (
        pytest.raises(StateError, match=r"SQLITE_FULL.*free space"),
        database.transaction() as link,
    ):
        link.execute("INSERT INTO charge SELECT hex(zeroblob(100000)), 1")
    assert rows(database) == [("a", 1)]


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "db").write_bytes(b"x" * 5000)
    with pytest.raises(StateError, match="restore a backup"):
        Database(tmp_path / "db", ONE)


def test_a_fault_in_our_own_sql_stays_loud(tmp_path):
    database = Database(tmp_path / "db", ONE)
    with pytest.raises(sqlite3.OperationalError), database.transaction() as link:
        link.execute("SELECT * FROM nowhere")


def test_a_transaction_inside_a_transaction_is_a_bug(tmp_path):
    database = Database(tmp_path / "db", ONE)
    with pytest.raises(RuntimeError), database.transaction(), database.transaction():
        pass
    assert rows(database) == []


def test_what_an_older_build_left_is_kept_beside_the_migrated_file(tmp_path):
    old = Database(tmp_path / "db", ONE)
    add(old, 5)
    old.close()
    Database(tmp_path / "db", [*ONE, "DROP TABLE charge"]).close()
    kept = tmp_path / "db.schema-1"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert rows(Database(kept, ONE)) == [("a", 5)]
