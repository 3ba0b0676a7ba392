"""The coordinator's metrics, read from its database at each scrape."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from coordinator import home
from coordinator.rounds import RoundDriver
from coordinator.state import CoordinatorState
from primia.metrics import Sample, certificate_days, of_process


def reader(
    folder: Path, state: CoordinatorState, driver: RoundDriver
) -> Callable[[], Iterator[Sample]]:
    """What to serve, for `primia.metrics.serve`."""

    def read() -> Iterator[Sample]:
        yield from _rounds(state, driver)
        for site in state.sites():
            if site.struck_at is None and site.last_seen is not None:
                yield Sample(
                    "site_last_contact_seconds", "since the site was last heard of",
                    max(0.0, time.time() - site.last_seen), {"site": site.site},
                )  # fmt: skip
        certificate, _ = home.coordinator_identity(folder, state)
        yield certificate_days(certificate, "coordinator")
        newest = state.valid_authorities()[-1]
        yield certificate_days(home.certificate_of(newest.certificate), "authority")
        yield Sample(
            "books_put_back", "ledgers and audit logs found to be older copies",
            len(state.head_troubles()),
        )  # fmt: skip
        yield from of_process(sent="bytes_down", received="bytes_up")

    return read


def _rounds(state: CoordinatorState, driver: RoundDriver) -> Iterator[Sample]:
    outcomes = state.outcomes()
    for outcome in ("committed", "aborted"):
        yield Sample(
            "attempts_total", "attempts that ended", outcomes.get(outcome, 0),
            {"outcome": outcome}, total=True,
        )  # fmt: skip
    yield Sample("rounds_planned", "rounds of training in the plan", driver.terms.rounds)
    now = driver.position()
    yield Sample("round", "the open round; 0 between rounds", 0 if now is None else now.round)
    if now is not None:
        phase = {"phase": now.phase}
        yield Sample("phase_seconds", "how long the round is in its phase", now.seconds, phase)
        yield Sample("sites_waited_for", "sites that the phase waits for", now.waiting_for)
    yield Sample("study_finished", "1 when no round is left", driver.over is not None)
