"""`primia-worker check` says for how long this site is certified."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.renewal.study import EAST, Study
from worker.check import check_site


@pytest.mark.parametrize(
    ("age_days", "says"), [(0, "ends in 825 days"), (820, "5 days, renewed by itself")]
)
def test_check_shows_days_left(tmp_path: Path, age_days: float, says: str) -> None:
    study = Study(tmp_path, age_days)
    try:
        east = study.enrol(EAST)
        found = {c.name: c for c in check_site(east.folder, tmp_path / "none.yaml")}
        assert found["identity"].ok
        assert says in found["identity"].detail
        assert ("it is not being renewed" in found["identity"].detail) is (age_days > 800)
    finally:
        study.close()
