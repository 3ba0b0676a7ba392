from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.renewal.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    made = Study(tmp_path)
    yield made
    made.close()
