"""The worker's metrics. ε is read from the ledger, and computed anew only when a charge came."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from primia import tally
from primia.config.site import SiteConfig
from primia.metrics import Sample, certificate_days, of_process
from primia.privacy import Head
from worker.books import open_ledger
from worker.home import load


def reader(folder: Path, site: Callable[[], SiteConfig]) -> Callable[[], Iterator[Sample]]:
    """What to serve, for `primia.metrics.serve`. site: the site file as it is now."""
    known: dict[tuple[Head, float], float] = {}

    def spent(config: SiteConfig) -> float:
        delta = config.caps.max_delta
        # A connection of its own: it belongs to one thread, and each scrape is another.
        with open_ledger(folder, config) as ledger:
            key = (ledger.head(), delta)
            if key not in known:
                value = ledger.spent(delta)
                known.clear()
                known[key] = value
            return known[key]

    def read() -> Iterator[Sample]:
        config = site()
        limits, total = config.caps, spent(config)
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
