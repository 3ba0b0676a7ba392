"""The way to the coordinator, what it answers, and its clock."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from primia.errors import StateError
from primia.identity.invitation import split_address
from primia.wire.client import FederationClient
from primia.wire.diagnosis import probe, proxy_for
from primia.wire.handler import StudyBundle
from worker.doctor.visit import Seen
from worker.home import SiteIdentity

MOST_SKEW_S = 60.0
"""Certificates and the times in ledger and audit log tell people when things happened."""


@dataclass(frozen=True)
class Answer:
    """What the coordinator sent; skew_s: how far this clock is ahead, give or take error_s."""

    bundle: StudyBundle
    skew_s: float | None
    error_s: float


def connection(identity: SiteIdentity) -> Seen[None]:
    """Name, proxy, TCP and mutual TLS, as gRPC goes. Raises Unreachable, IdentityError."""
    wrong = probe(identity.address, identity.tls())
    if wrong is not None:
        raise wrong
    host, _ = split_address(identity.address)
    proxy = proxy_for(host, os.environ)
    way = "directly" if proxy is None else f"through the proxy that {proxy[0]} names"
    return Seen(None, f"{identity.address} answers {way}; both certificates hold")


def study(identity: SiteIdentity) -> Seen[Answer]:
    """Ask for the study. Raises Unreachable, or IdentityError for a site that was struck."""
    link = FederationClient(identity.address, identity.tls())
    try:
        link.get_study()  # the handshake is no part of what is measured
        before = datetime.now(UTC).timestamp()
        began = time.monotonic()
        bundle = link.get_study()
        took = time.monotonic() - began
    finally:
        link.close()
    skew = None if bundle.clock is None else before + took / 2 - bundle.clock
    return Seen(Answer(bundle, skew, took / 2), f"the coordinator knows this site ({took:.2f} s)")


def clock(answer: Answer) -> Seen[None]:
    """This machine's clock against the coordinator's. Raises StateError."""
    if answer.skew_s is None:
        return Seen(None, "not compared: the coordinator has an older primia, which does not say")
    size = abs(answer.skew_s)
    which = "ahead of" if answer.skew_s > 0 else "behind"
    found = f"{size:.1f} s (± {answer.error_s:.1f} s) {which} the coordinator's clock"
    if size - answer.error_s > MOST_SKEW_S:
        raise StateError(
            f"this machine's clock is {found}; certificates and records go by it: set it, and keep "
            "it set with chrony or systemd-timesyncd (or ask the coordinator's operator to)"
        )
    return Seen(None, found)
