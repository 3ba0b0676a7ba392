"""A folder can be looked at beside its daemon without a byte of it changing."""

from __future__ import annotations

from pathlib import Path

import pytest

from primia.errors import StateError
from primia.storage.audit_log import FILE, AuditLog
from primia.storage.database import Database
from primia.storage.snapshot import Snapshot

TABLE = "CREATE TABLE t (x INTEGER) STRICT"


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def put(db: Database, number: int) -> None:
    with db.transaction() as link:
        link.execute("INSERT INTO t VALUES (?)", (number,))


def held(db: Database) -> list[int]:
    with db.transaction() as link:
        return [row["x"] for row in link.execute("SELECT x FROM t ORDER BY x")]


@pytest.mark.parametrize("daemon_runs", [False, True])
def test_a_database_is_read_and_what_is_written_stays_in_memory(
    tmp_path: Path, daemon_runs: bool
) -> None:
    path = tmp_path / "a.db"
    daemon = Database(path, [TABLE])
    put(daemon, 1)
    if not daemon_runs:
        daemon.close()
    before = contents(tmp_path)
    looked = Database(path, [TABLE], Snapshot())
    put(looked, 2)
    assert held(looked) == [1, 2]
    looked.close()
    after = contents(tmp_path)
    for name in before.keys() - {"a.db-shm"}:  # SQLite notes its readers there
        assert after[name] == before[name]
    assert after.keys() == before.keys()
    if daemon_runs:
        put(daemon, 3)
        assert held(daemon) == [1, 3]
        daemon.close()


def test_an_older_schema_is_brought_up_in_memory_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    Database(path, [TABLE]).close()
    before = contents(tmp_path)
    looked = Database(path, [TABLE, "CREATE TABLE u (y INTEGER) STRICT"], Snapshot())
    with looked.transaction() as link:
        assert link.execute("SELECT count(*) FROM u").fetchone()[0] == 0
    looked.close()
    assert contents(tmp_path) == before


def test_a_damaged_database_is_a_state_error(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StateError, match="restore a backup"):
        Database(path, [TABLE], Snapshot())


def test_a_missing_file_is_empty_and_is_not_made(tmp_path: Path) -> None:
    looked = Database(tmp_path / "a.db", [TABLE], Snapshot())
    assert held(looked) == []
    assert AuditLog(tmp_path / FILE, disk=Snapshot()).verify().lines == 0
    assert not list(tmp_path.iterdir())


def test_lines_of_the_audit_log_are_chained_on_in_memory(tmp_path: Path) -> None:
    AuditLog(tmp_path / FILE).append("stopped")
    before = contents(tmp_path)
    looked = AuditLog(tmp_path / FILE, disk=Snapshot())
    assert looked.append("stopped").lines == 2
    AuditLog(tmp_path / FILE).append("started", version="1")  # the daemon's own line
    assert looked.verify().lines == 2
    assert looked.append("stopped").lines == 3
    assert AuditLog(tmp_path / FILE).verify().lines == 2
    assert before.keys() == contents(tmp_path).keys()


def test_new_files_are_refused(tmp_path: Path) -> None:
    disk = Snapshot()
    for act in (
        lambda: disk.write(tmp_path / "a", b"x"),
        lambda: disk.rename(tmp_path / "a", tmp_path / "b"),
        lambda: disk.remove(tmp_path / "a"),
        lambda: disk.make_folder(tmp_path / "c"),
    ):
        with pytest.raises(OSError, match="only looked at"):
            act()
    assert not list(tmp_path.iterdir())
