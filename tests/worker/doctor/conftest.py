"""One hospital in order: enrolled with a coordinator that answers, plan and films approved."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from coordinator import home as coordinator_home
from primia.imaging.export import write_site_npz
from tests.attacks.hospitals import films
from tests.renewal.study import EAST, PLAN, Study
from worker import home
from worker.approval import Person
from worker.doctor.examine import examine
from worker.doctor.visit import Finding, State, Visit
from worker.page import approve_page, read_page

PATIENTS = 40
PATIENCE_S = 200.0  # a loaded machine loads torch slowly


@dataclass
class Hospital:
    """A state folder and a site file, to break."""

    study: Study
    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "east"

    @property
    def site_file(self) -> Path:
        return self.folder / "site.yaml"

    def examine(self, *, deep: bool = False) -> Visit:
        return examine(self.state, self.site_file, total_s=PATIENCE_S, deep=deep)

    def fault(self) -> Finding:
        """The one thing to mend that the doctor finds."""
        found = [f for f in self.examine().findings if f.state is State.MEND]
        assert len(found) == 1, found
        return found[0]

    def configure(self, **sections: Any) -> None:
        """Change keys of the site file's sections."""
        data = yaml.safe_load(self.site_file.read_text())
        for name, keys in sections.items():
            data[name] = {**data.get(name, {}), **keys}
        self.site_file.write_text(yaml.safe_dump(data))

    def films_are(self, source: dict[str, Any]) -> None:
        """Other films than those that were approved."""
        data = yaml.safe_load(self.site_file.read_text())
        self.site_file.write_text(yaml.safe_dump({**data, "data": source}))

    def sql(self, file: str, statement: str, *values: object) -> None:
        with contextlib.closing(sqlite3.connect(self.state / file)) as db, db:
            db.execute(statement, values)

    def dials(self, address: str) -> None:
        self.sql("worker.db", "UPDATE meta SET value = ? WHERE key = 'address'", address)


def contents(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Every file of a folder, as it is."""
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_mode)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="session")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("founded")
    study = Study(folder, age_days=100)
    made = Hospital(study, folder)
    (npz,) = write_site_npz({EAST: films(PATIENTS, seed=1)}, folder / "films", PLAN.model.classes)
    site = {
        "data": {"kind": "npz", "path": str(npz)},
        "caps": {"max_epsilon": 50.0, "max_delta": 1e-3, "min_patients": 10},
        "compute": {"device": "cpu"},
    }
    made.site_file.write_text(yaml.safe_dump(site))
    invitation, _ = coordinator_home.invite(study.home, EAST, study.server.address)
    home.enrol(made.state, invitation.code(), None)
    page = read_page(made.state, made.site_file)
    assert not approve_page(made.state, page, Person("Ada", "steward", "ada")).missing
    yield made
    study.close()


@pytest.fixture
def hospital(founded: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hospital:
    """A copy that a test may break, at the coordinator of the original."""
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(founded.state, tmp_path / "east")
    shutil.copy(founded.site_file, tmp_path / "site.yaml")
    return Hospital(founded.study, tmp_path)


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    yield
    structlog.reset_defaults()
