"""Disks that are full, broken, damaged, or another user's (rows F13 to F21, O01)."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.state import CoordinatorState
from primia.demo.fleet import Daemon
from tests.faults.disks import eio_on_sync, fill, small_disk
from tests.faults.ward import Ward
from tests.processes.federation import committed

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]


def test_f13_a_full_disk_in_a_round_ends_the_coordinator_and_loses_nothing(ward: Ward) -> None:
    with small_disk(ward.home, "8m"):
        ward.start_coordinator()
        ward.start_all()
        ward.wait_for(ward.coordinator, "phase", round=2, phase="keys")
        filler = fill(ward.home)
        assert ward.wait_for_exit("coordinator", 120) == 1
        line = ward.coordinator.last_lines(1)
        assert "free space" in line
        assert "Traceback" not in ward.said("coordinator")
        filler.unlink()
        ward.start_coordinator()
        ward.wait_for_end()
    assert committed(ward.result()) == [1, 2, 3]
    for name in ward.sites:
        assert [r for r, _ in ward.ledger(name)] == [1, 2]
    ward.check(sums=2)


@pytest.mark.parametrize("who", ["north", "coordinator"])
def test_a_disk_that_does_not_sync_ends_the_daemon_and_loses_nothing(ward: Ward, who: str) -> None:
    ward.start_coordinator()
    ward.start_all()
    ward.wait_for(ward.daemons["north"], "working", round=1)
    with eio_on_sync(ward.daemons[who].process.pid):
        assert ward.wait_for_exit(who, 120) == 1
    assert "error: " in ward.said(who)
    assert "Traceback" not in ward.said(who)
    assert not [r for r, _ in ward.ledger("north") if r == 1] or who == "coordinator"
    if who == "coordinator":
        ward.start_coordinator()
    else:
        ward.start_worker(who)
    ward.wait_for_end()
    assert committed(ward.result()) == [1, 2, 3]
    ward.check(sums=2)


@pytest.mark.parametrize("part", ["digest", "state"])
def test_f16_a_bit_flipped_in_the_newest_checkpoint_is_named_and_nothing_starts(
    ward: Ward, part: str
) -> None:
    state = CoordinatorState(ward.home)
    digest = getattr(state.models()[-1], part)
    state.close()
    blob = ward.home / "blobs" / digest
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 4
    blob.write_bytes(data)
    daemon = Daemon.start(
        "coordinator", ward.folder / "coordinator.log", "coordinator", "start",
        "--state", str(ward.home), "--listen", f"127.0.0.1:{ward.port}",
    )  # fmt: skip
    ward.daemons["coordinator"] = daemon
    assert ward.wait_for_exit("coordinator") == 1
    line = daemon.last_lines(1)
    assert digest in line
    assert "is damaged: its digest is" in line
    assert "restore it from a backup" in line


def test_f18_a_worker_without_its_ledger_does_not_start_as_new(ward: Ward) -> None:
    for file in (ward.folder / "north").glob("ledger.db*"):
        file.unlink()
    worker = ward.start_worker("north")
    assert worker.process.wait(60) == 1
    line = worker.last_lines(1)
    assert "ledger" in line
    assert "restore" in line or "backup" in line
    assert not (ward.folder / "north" / "ledger.db").exists()


@pytest.mark.parametrize("module", ["worker", "coordinator"])
def test_f21_a_folder_that_is_not_ours_is_named_at_start(ward: Ward, module: str) -> None:
    setpriv = shutil.which("setpriv")
    as_nobody = [setpriv or "", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if setpriv is None or os.getuid() != 0:
        pytest.skip("needs root and setpriv (util-linux) to become another user")
    if subprocess.run([*as_nobody, sys.executable, "-c", "import typer"]).returncode != 0:
        pytest.skip("another user cannot read this Python installation")
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        for name in ("north", "coordinator"):
            shutil.copytree(ward.folder / name, Path(place) / name)
        shutil.copy(ward.folder / "north.yaml", place)
        state = Path(place) / ("north" if module == "worker" else "coordinator")
        arguments = (
            ["run", "--config", f"{place}/north.yaml"]
            if module == "worker"
            else ["start", "--listen", f"127.0.0.1:{ward.port}"]
        )
        done = subprocess.run(
            [*as_nobody, sys.executable, "-m", module, *arguments, "--state", str(state)],
            capture_output=True, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert f"{state}" in done.stderr
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


def test_o01_a_folder_of_a_newer_build_is_refused_and_one_of_an_older_is_kept_beside(
    ward: Ward,
) -> None:
    """What the older build had written is still there, next to what it became."""
    file = ward.home / "coordinator.db"
    with closing(sqlite3.connect(file)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        db.execute("PRAGMA user_version = 999")
    daemon = Daemon.start(
        "coordinator", ward.folder / "coordinator.log", "coordinator", "start",
        "--state", str(ward.home), "--listen", f"127.0.0.1:{ward.port}",
    )  # fmt: skip
    assert daemon.process.wait(60) == 1
    assert f"{file} was written by a newer primia" in daemon.last_lines(1)
    with closing(sqlite3.connect(file)) as db:
        db.execute(f"PRAGMA user_version = {version}")
    ward.start_coordinator()
    ward.terminate("coordinator")
