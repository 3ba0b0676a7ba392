"""The worker's metrics. ε is read from the ledger, and computed anew only when a charge came."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from primia import tally
from primia.config.site import Caps
from primia.metrics import Sample, certificate_days, of_process
from primia.privacy.ledger import Head, Ledger
from worker.home import load


def reader(folder: Path, caps: Callable[[], Caps]) -> Callable[[], Iterator[Sample]]:
    """What to serve, for `primia.metrics.serve`. caps: as the site file has them now."""
    known: dict[tuple[Head, float], float] = {}

    def spent(delta: float) -> float:
        # A connection of its own: it belongs to one thread, and each scrape is another.
        with Ledger(folder / "ledger.db") as ledger:
            key = (ledger.head(), delta)
            if key not in known:
                value = ledger.spent(delta)
                known.clear()
                known[key] = value
            return known[key]

    def read() -> Iterator[Sample]:
        limits = caps()
        total = spent(limits.max_delta)
        yield Sample("epsilon_spent", "by the ledger, at the site's delta", total)
        yield Sample("epsilon_cap", "caps.max_epsilon of the site file", limits.max_epsilon)
        yield Sample("delta", "caps.max_delta of the site file", limits.max_delta)
        yield from _round()
        yield certificate_days(load(folder).certificate, "site")
        yield from of_process(sent="bytes_up", received="bytes_down")

    return read


def _round() -> Iterator[Sample]:
    for outcome in ("committed", "aborted"):
        yield Sample(
            "attempts_total", "attempts that ended since the start",
            tally.count(f"attempts_{outcome}"), {"outcome": outcome}, total=True,
        )  # fmt: skip
    yield Sample("round", "the newest round heard of", tally.value("round") or 0)
    since = tally.value("phase_since")
    if since is not None:
        phase = {"phase": tally.text("phase")}
        seconds = max(0.0, time.monotonic() - since)
        yield Sample("phase_seconds", "how long this site is in its phase", seconds, phase)
    contact = tally.value("contact")
    yield Sample(
        "last_contact_seconds", "since the coordinator last answered; +Inf: never",
        math.inf if contact is None else max(0.0, time.monotonic() - contact),
    )  # fmt: skip
