"""The simulation is a test of its own; what the daemons would log is not wanted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.faultsim.run import quiet


@pytest.fixture(autouse=True)
def _no_logs() -> Iterator[None]:
    quiet()
    yield
    structlog.reset_defaults()
