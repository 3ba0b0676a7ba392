"""`primia-worker doctor` says for how long this site is certified."""

from __future__ import annotations

from pathlib import Path

import pytest

from primia.storage.snapshot import Snapshot
from tests.renewal.study import EAST, Study
from worker.doctor.folder import identity


@pytest.mark.parametrize(
    ("age_days", "says"),
    [(0, "ends in 825 days"), (820, "ends in 5 days and is not being renewed")],
)
def test_the_doctor_tells_days_left(tmp_path: Path, age_days: float, says: str) -> None:
    study = Study(tmp_path, age_days)
    try:
        seen = identity(study.enrol(EAST).folder, Snapshot())
        assert says in (seen.concern or seen.says)
        assert bool(seen.concern) is (age_days > 800)
    finally:
        study.close()
