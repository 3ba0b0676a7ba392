"""The file system behind the stores: private files, whole names, folders listed in order."""

from __future__ import annotations

import sqlite3
import stat

import pytest

from primia.storage.disk import DISK


def test_a_written_file_is_private_and_is_not_written_over(tmp_path):
    path = tmp_path / "file"
    DISK.write(path, b"first")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        DISK.write(path, b"second")
    assert DISK.read(path) == b"first"


def test_a_renamed_file_takes_the_place_of_another(tmp_path):
    DISK.write(tmp_path / "b", b"new")
    DISK.write(tmp_path / "a", b"old")
    assert DISK.names(tmp_path) == ["a", "b"]
    DISK.rename(tmp_path / "b", tmp_path / "a")
    DISK.sync_folder(tmp_path)
    assert DISK.names(tmp_path) == ["a"]
    assert DISK.read(tmp_path / "a") == b"new"


def test_removing_twice_is_harmless(tmp_path):
    DISK.write(tmp_path / "a", b"x")
    DISK.remove(tmp_path / "a")
    DISK.remove(tmp_path / "a")
    assert not DISK.exists(tmp_path / "a")


def test_a_database_is_private_and_only_what_is_executed_commits(tmp_path):
    path = tmp_path / "a.db"
    db = DISK.connect(path, 1.0, one_thread=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    db.execute("CREATE TABLE t (x)")
    db.execute("BEGIN")
    db.execute("INSERT INTO t VALUES (1)")
    db.close()
    again = sqlite3.connect(path)
    assert again.execute("SELECT count(*) FROM t").fetchone() == (0,)
    again.close()
