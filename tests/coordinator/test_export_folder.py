"""An export's folder belongs to one study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordinator.export import _refuse_anothers
from primia.errors import StateError


def test_an_export_replaces_its_own_study_and_no_other(tmp_path: Path) -> None:
    _refuse_anothers(tmp_path, "chest")
    (tmp_path / "plan.json").write_text(json.dumps({"study": "chest"}))
    _refuse_anothers(tmp_path, "chest")
    with pytest.raises(StateError, match="export of chest; choose another folder"):
        _refuse_anothers(tmp_path, "knee")
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(StateError, match="something else"):
        _refuse_anothers(tmp_path, "chest")
