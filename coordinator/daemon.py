"""The coordinator as a process: take the folder, sign the plan, serve, run the rounds."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import structlog

from coordinator import home, metrics
from coordinator.heads import compare_books
from coordinator.rounds import RoundDriver
from coordinator.rows import ModelRow, PinnedStudy
from coordinator.service import Service
from coordinator.state import CoordinatorState
from coordinator.terms import StudyTerms
from coordinator.upkeep import Upkeep
from primia import __version__
from primia.config import StudyPlan, canonical_bytes, load_plan, plan_digest, plan_from_canonical
from primia.errors import ConfigError, StateError
from primia.federation.optimiser import ServerState, pack_state, pack_weights
from primia.identity.certificate import from_pem
from primia.identity.signing import sign, verify
from primia.metrics import serve as serve_metrics
from primia.outcome import scores
from primia.settle import settle
from primia.storage.blobs import Blobs
from primia.storage.folder import StateFolder
from primia.study import contribution, first_weights, optimiser
from primia.types import SiteId
from primia.wire import handshakes
from primia.wire.labels import PLAN_LABEL, ROUND_LABEL
from primia.wire.server import check_address, serve

log = structlog.get_logger()

STAY_S = 60.0  # at most, after the last round, so that every site hears that the study is over


def start(
    folder: Path,
    plan_file: Path | None,
    listen: str,
    *,
    stay: bool,
    metrics_at: tuple[str, int] | None = None,
) -> None:
    """Run the study until it is over or SIGTERM or SIGINT comes; resumes where it was.

    plan_file: needed at the first start; later the pinned plan runs, and another is refused.
    stay: keep answering sites after the study is over, until stopped.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with StateFolder(folder):
        state = CoordinatorState(folder)
        try:
            check_address(listen)  # before a plan is pinned, which is for good
            state.audit.append("started", version=__version__)
            compare_books(state)
            blobs = Blobs(folder / "blobs")
            blobs.sweep()
            plan = _plan(folder, state, blobs, plan_file)
            _check_checkpoint(state, blobs)
            _serve(folder, state, blobs, plan, listen, stop, stay=stay, metrics_at=metrics_at)
        finally:
            state.close()


def _check_checkpoint(state: CoordinatorState, blobs: Blobs) -> None:
    """Raises StateError when what the next round starts from is damaged.

    Found out later, it would cost the sites their work: they check the model that they fetch.
    """
    newest = state.newest_model()
    for digest in (newest.digest, newest.state):
        blobs.get(digest)


def _plan(folder: Path, state: CoordinatorState, blobs: Blobs, file: Path | None) -> StudyPlan:
    """The pinned plan; at the first start settle, sign and pin the one in `file`."""
    given = None if file is None else settle(load_plan(file))
    study = state.noted("study")
    if given is not None and given.study != study:
        raise ConfigError(
            f"{file}: study = {given.study!r}, but this folder was made for {study!r}; "
            "correct the plan, or init a new folder"
        )
    known = state.study()
    if known is None:
        if given is None:
            raise ConfigError("no plan is pinned yet; give one with --plan FILE")
        _pin(folder, state, blobs, given)
    elif given is not None and plan_digest(given) != known.digest:
        raise StateError(
            f"this folder runs the plan {known.digest[:16]}…, {file} is another one; a plan never "
            "changes once started: use a new folder, or leave --plan out"
        )
    pinned = state.study()
    assert pinned is not None
    return plan_from_canonical(pinned.plan)


def _pin(folder: Path, state: CoordinatorState, blobs: Blobs, plan: StudyPlan) -> None:
    """Sign the settled plan, make model 0, and keep both."""
    digest, weights = plan_digest(plan), first_weights(plan)
    contribution(plan, weights.size)  # refuses what does not fit the ring, before it is signed
    start_state = ServerState.start(weights, optimiser(plan))
    model = ModelRow(0, blobs.put(pack_weights(weights)), blobs.put(pack_state(start_state)), None)
    _, key = home.coordinator_identity(folder, state)
    data = canonical_bytes(plan)
    signature = sign(key, PLAN_LABEL, data)
    state.pin_study(PinnedStudy(data, signature, digest, weights.size), model)
    state.note("state", "running")


def _terms(plan: StudyPlan, parameters: int) -> StudyTerms:
    return StudyTerms(
        plan=plan_digest(plan),
        roster=plan.site_ids,
        rounds=plan.rounds,
        quorum=plan.schedule.quorum,
        deadline_s=plan.schedule.deadline_s,
        grace_s=plan.schedule.grace_s,
        stage_timeout_s=plan.schedule.stage_timeout_s,
        max_rounds_missed=plan.schedule.max_rounds_missed,
        contribution=contribution(plan, parameters),
        cipher=plan.aggregation.mask_cipher,
        groups=plan.aggregation.groups,
        threads=len(os.sched_getaffinity(0)),
        score=lambda counts, sites: scores(plan, counts, sites),
        optimiser=optimiser(plan),
        voting=plan.evaluation.vote_tolerance is not None,
    )


def _serve(
    folder: Path,
    state: CoordinatorState,
    blobs: Blobs,
    plan: StudyPlan,
    listen: str,
    stop: threading.Event,
    *,
    stay: bool,
    metrics_at: tuple[str, int] | None,
) -> None:
    upkeep = Upkeep(folder, state)
    upkeep.look()
    home.coordinator_identity(folder, state)  # checked before anybody dials in
    pinned = state.study()
    assert pinned is not None

    def signed(site: SiteId, statement: bytes, signature: bytes) -> bool:
        owner = next((s for s in state.sites() if s.site == site), None)
        return owner is not None and verify(
            from_pem(owner.certificate), ROUND_LABEL, statement, signature
        )

    driver = RoundDriver(_terms(plan, pinned.parameters), state, blobs, signed)
    service = Service(folder, state, blobs, driver, stop.is_set, upkeep)
    server = serve(
        service,
        listen=listen,
        tls=service.tls,
        roots=service.roots,
        max_sites=max(16, 2 * len(plan.sites)),
    )
    renewing = threading.Thread(target=upkeep.run, args=(stop,), name="upkeep")
    renewing.start()
    try:
        handshakes.tell(service.handshake_failed)
        log.info("listening", address=server.address, study=plan.study, plan=pinned.digest)
        if metrics_at is not None:
            serve_metrics(metrics_at, metrics.reader(folder, state, driver))
            log.info("metrics", address=f"{metrics_at[0]}:{metrics_at[1]}")
        driver.run(stop)
        until = time.monotonic() + STAY_S
        while driver.over is not None and not stop.wait(0.2):
            if not stay and (driver.everyone_knows() or time.monotonic() > until):
                break
    finally:
        stop.set()
        server.stop()
        renewing.join()
        log.info("stopped", state=state.noted("state"))
        state.audit.append("stopped")
