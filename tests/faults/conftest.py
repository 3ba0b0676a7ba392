"""A federation that is founded once and copied for each test."""

from __future__ import annotations

import dataclasses
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.relay import Relay
from tests.faults.ward import FOUR, SCHEDULE, Ward
from tests.processes.federation import plan


@pytest.fixture(scope="session")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    """Four hospitals enrolled for two rounds; nothing runs."""
    made = Ward(tmp_path_factory.mktemp("founded"), FOUR)
    try:
        made.found(plan(FOUR, schedule=SCHEDULE))
    finally:
        made.stop()
    return made


@pytest.fixture
def ward(founded: Ward, tmp_path: Path) -> Iterator[Ward]:
    """A copy of the founded one; its port is free again when the test is over."""
    shutil.copytree(founded.folder, tmp_path / "ward")
    made = dataclasses.replace(founded, folder=tmp_path / "ward", daemons={})
    try:
        with made.keeping():
            yield made
    finally:
        for daemon in made.daemons.values():
            if daemon.process.poll() is None:
                daemon.process.send_signal(signal.SIGCONT)
        made.stop()


@pytest.fixture
def relay(ward: Ward) -> Iterator[Relay]:
    with Relay(ward.port) as made:
        yield made
