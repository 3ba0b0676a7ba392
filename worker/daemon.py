"""The worker as a process: folder, ledger, link, plan, films; then `worker.participant`.

SIGTERM is heard within seconds, in training after the step at hand.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import structlog
import torch

from primia import __version__
from primia.config.site import SiteConfig, load_site
from primia.errors import Unreachable
from primia.federation.optimiser import pack_weights
from primia.learning.insecure import refuse_simulation_settings
from primia.learning.terms import is_distributed
from primia.metrics import serve as serve_metrics
from primia.privacy import Ledger
from primia.storage.blobs import Blobs
from primia.storage.folder import StateFolder
from primia.study import contribution, first_weights, step_bound
from primia.types import Digest
from primia.wire.client import FederationClient
from worker import metrics
from worker.books import open_ledger
from worker.devices import devices_of
from worker.gate import ApprovalGate
from worker.guard import ModelGuard
from worker.home import SiteIdentity, load
from worker.learning import FilmLearning
from worker.limits import hold_memory
from worker.link import Pause, Stopped
from worker.offer import make_offer
from worker.participant import OVER, Participant
from worker.renewal import Renewal
from worker.state import WorkerState
from worker.study import Peers
from worker.work import LocalWork, check_books

log = structlog.get_logger()
T = TypeVar("T")
STOPS = (signal.SIGTERM, signal.SIGINT)


def run(folder: Path, config_file: Path, *, metrics_at: tuple[str, int] | None = None) -> None:
    """Take part in rounds until the study is over or a signal comes.

    Trains nothing before people have approved plan and cohort, and waits for them.

    Raises what a person has to mend: StateError, IdentityError, ConfigError, DataError, and
    PolicyRefused for a plan that this site does not accept.
    """
    refuse_simulation_settings()
    stop = threading.Event()
    for number in STOPS:
        signal.signal(number, lambda *_: stop.set())
    config = load_site(config_file)
    with StateFolder(folder):
        identity = load(folder)
        state = WorkerState(folder)
        try:
            with open_ledger(folder, config) as ledger:
                check_books(ledger, state, Digest(state.noted("plan") or ""), identity.site)
            over = state.noted(OVER)
            if over is not None:
                log.info("study_over", reason=over)
                return
            state.audit.append("started", version=__version__)
            if metrics_at is not None:
                read = metrics.reader(folder, lambda: load_site(config_file))
                serve_metrics(metrics_at, read)
                log.info("metrics", address=f"{metrics_at[0]}:{metrics_at[1]}")
            link = FederationClient(identity.address, identity.tls())
            hanging_up = threading.Thread(target=_hang_up, args=(stop, link), daemon=True)
            hanging_up.start()
            try:
                done = False
                while not (done or stop.is_set()):
                    config = load_site(config_file)
                    # The identity from disk again: it may have been renewed.
                    with open_ledger(folder, config) as ledger:
                        done = _take_part(folder, config, load(folder), state, ledger, link, stop)
            finally:
                stop.set()
                hanging_up.join()
                state.audit.append("stopped")
        finally:
            state.close()
    log.info("stopped")


@contextmanager
def _heard_at_once(stop: threading.Event) -> Iterator[None]:
    """Meanwhile a signal ends what the main thread does, which looks at nothing else."""

    def end(*_: object) -> None:
        stop.set()
        raise Stopped

    before = {number: signal.signal(number, end) for number in STOPS}
    try:
        if stop.is_set():
            raise Stopped
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hang_up(stop: threading.Event, link: FederationClient) -> None:
    """A call that waits at the coordinator ends when the operator wants to stop."""
    stop.wait()
    link.close()


def _take_part(
    folder: Path,
    config: SiteConfig,
    identity: SiteIdentity,
    state: WorkerState,
    ledger: Ledger,
    link: FederationClient,
    stop: threading.Event,
) -> bool:
    """One approval long; whether the work is done."""
    torch.set_num_threads(config.compute.threads)
    hold_memory(config.caps.max_memory_gib)
    bundle = _until_answered(link.get_study, stop)
    if bundle is None:
        return True
    renewal = Renewal(folder, identity, link, state.audit)
    renewal.follow(bundle)
    identity = renewal.identity
    try:
        reading = _heard_at_once(stop)
        offer = make_offer(folder, config, identity, bundle, state, ledger, reading)
    except Stopped:
        return True
    plan, cohort = offer.plan, offer.cohort
    check_books(ledger, state, offer.subject.plan, identity.site)
    gate = ApprovalGate(
        state,
        offer.subject,
        ledger.withdrawals,
        config.caps.hours,
        withdrawn=offer.withdrawn,
    )
    if not gate.wait(stop, renewal.keep):
        return False
    peers = Peers(identity, state)
    peers.learn(bundle.sites, plan)
    for warning in cohort.warnings:
        log.warning("films", warning=warning)
    if plan.privacy != "none" and plan.privacy.delta * cohort.train.patient_count >= 1:
        # A mechanism may show one patient whole with probability delta: one of 1/delta must not
        # be expected. The count itself is not logged.
        log.warning("delta_too_large", delta=plan.privacy.delta, remedy="ask for a smaller delta")
    first = first_weights(plan)
    blobs = Blobs(folder / "blobs")
    blobs.sweep()
    vectors, devices = contribution(plan, first.size), devices_of(config.compute)
    work = LocalWork(
        plan=plan,
        contribution=vectors,
        caps=config.caps,
        learning=FilmLearning(plan, vectors, cohort, state, devices),
        state=state,
        ledger=ledger,
        blobs=blobs,
        guard=ModelGuard(first, step_bound(plan, vectors), state.models, blobs),
        members=offer.members,
        cohort=offer.subject.cohort,
        site=identity.site,
    )
    if len(devices) > 1 and is_distributed(plan):
        log.warning("processes_unused", reason="a round of shared noise is one step, on one device")
    log.info("taking_part", site=identity.site, coordinator=identity.address)
    renewal.watch(peers, plan)
    return Participant(
        identity, peers, work, link, stop, len(pack_weights(first)), gate=gate, renewal=renewal
    ).serve()


def _until_answered(call: Callable[[], T], stop: threading.Event) -> T | None:
    """Repeat a call while the coordinator is away; None when stopped."""
    pause = Pause()
    while not stop.is_set():
        try:
            return call()
        except Unreachable as err:
            if not stop.is_set():
                pause.wait(stop, str(err))
    return None
