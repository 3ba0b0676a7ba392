"""How often a worker says that the coordinator is away."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from worker.link import LONGEST_PAUSE_S, Pause


class Clock:
    """A `Stop` whose time passes at once."""

    now = 0.0

    def is_set(self):
        return False

    def wait(self, timeout):
        self.now += timeout
        return False


@pytest.mark.parametrize("jitter", [lambda low, high: low, lambda low, high: high])
def test_a_coordinator_that_is_away_costs_fewer_lines_than_seconds(jitter):
    clock, pause = Clock(), Pause(jitter)
    with capture_logs() as lines:
        while clock.now < 60:
            pause.wait(clock, "down")
    assert len(lines) <= 10
    before, lines_before = clock.now, len(lines)
    with capture_logs() as lines:
        while clock.now < before + 3600:
            pause.wait(clock, "down")
    assert len(lines) <= 3600 / (LONGEST_PAUSE_S / 2) + 1
    assert lines_before
