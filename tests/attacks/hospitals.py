"""Real workers (state, ledger, blobs, training, signatures) against a coordinator that lies.

Only the link is false: it hands a worker whatever the attack says and keeps what the worker sends.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from primia.config.plan import StudyPlan, plan_digest
from primia.config.site import Caps
from primia.errors import Unreachable
from primia.federation.optimiser import pack_weights
from primia.identity import authority, keyfile
from primia.identity.certificate import to_pem
from primia.imaging.dataset import Cohort, Films
from primia.privacy.ledger import Ledger
from primia.protocol.coordinator import CoordinatorRound
from primia.protocol.events import (
    Abort,
    Answered,
    Commit,
    Event,
    Phase,
    RoundTerms,
    Tick,
    UpdateArrived,
)
from primia.protocol.messages import Instruction, RoundId, RoundKind
from primia.secagg.packing import pack, unpack
from primia.settle import settle
from primia.storage.blobs import Blobs
from primia.study import contribution, first_weights, step_bound
from primia.types import Digest, SiteId, sha256
from primia.wire.handler import Attendance, StudyBundle, UploadKey
from worker.guard import ModelGuard
from worker.home import SiteIdentity
from worker.learning import FilmLearning
from worker.participant import Participant
from worker.state import WorkerState
from worker.study import Peers
from worker.work import LocalWork

NAMES = ("east", "north", "south", "west")
EPSILON_CAP = 900.0


def plan(**changes: Any) -> StudyPlan:
    """Three rounds of one cheap step over four hospitals."""
    data: dict[str, Any] = {
        "study": "attacked",
        "model": {"name": "small-cnn", "input_size": 28, "classes": ["no", "yes"]},
        "sites": list(NAMES),
        "rounds": 3,
        "training": {
            "patient_sampling_rate": 0.5, "local_steps": 1, "expected_patients": 5,
            "learning_rate": 0.1,
        },
        "privacy": {"noise_multiplier": 2.0, "delta": 1e-3},
        "evaluation": {"histogram_bins": 16},
    }  # fmt: skip
    return settle(StudyPlan.model_validate_json(_json(data | changes)))


def _json(data: dict[str, Any]) -> str:
    import json

    return json.dumps(data)


def model(number: int, made_by: StudyPlan | None = None) -> tuple[Digest, bytes]:
    """A global model and its digest: model 0 of the plan, or one near it, as rounds make it."""
    first = first_weights(made_by or plan())
    moved = np.random.default_rng(number).normal(0, 1e-3, first.size) * (number > 0)
    data = pack_weights((first + moved).astype(np.float32))
    return sha256(data), data


def films(patients: int, seed: int) -> Films:
    rng = np.random.default_rng(seed)
    ids = np.arange(patients, dtype=np.int64)
    pixels = rng.integers(0, 255, (patients, 28, 28)).astype(np.uint8)
    return Films(pixels, ids % 2, ids)


@dataclass
class FalseLink:
    """What a `FederationClient` would be; the coordinator behind it is the attack."""

    models: dict[Digest, bytes]
    bundle: StudyBundle | None = None
    answers: list[Any] = field(default_factory=list)
    uploads: list[tuple[UploadKey, bytes]] = field(default_factory=list)
    script: list[Attendance] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    broken_fetches: list[Exception] = field(default_factory=list)

    def attend(self, after: int) -> Attendance:
        for news in self.script:
            if news.serial > after:
                return news
        self.stop.set()
        return Attendance(after)

    def last_heads(self, seen: Any) -> None:
        return None

    def countersign(self, heads: Any, seen: Any) -> Any:
        raise Unreachable("this coordinator countersigns nothing")

    def answer(self, answer: Any) -> None:
        self.answers.append(answer)

    def get_study(self) -> StudyBundle:
        assert self.bundle is not None
        return self.bundle

    def fetch_model(self, digest: Digest, *, max_bytes: int) -> bytes:
        if self.broken_fetches:
            raise self.broken_fetches.pop(0)
        return self.models[digest]

    def upload(self, key: UploadKey, data: Any) -> None:
        self.uploads.append((key, bytes(data)))


class OpenGate:
    """People here have approved everything."""

    is_open = True
    in_hours = True

    def check(self) -> None:
        pass

    def check_hours(self) -> None:
        pass


@dataclass
class Hospital:
    """One worker as `worker.daemon` puts it together."""

    site: SiteId
    folder: Path
    identity: SiteIdentity
    plan: StudyPlan
    cohort: Cohort
    link: FalseLink
    certificates: tuple[bytes, ...]
    caps: Caps = field(
        default_factory=lambda: Caps(max_epsilon=EPSILON_CAP, max_delta=1e-3, min_patients=2)
    )

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """(Re)start the process on its folder."""
        self.state = WorkerState(self.folder)
        self.state.pin_plan(plan_digest(self.plan))
        self.ledger = Ledger(self.folder / "ledger.db", create=True)
        first = first_weights(self.plan)
        vectors = contribution(self.plan, first.size)
        blobs = Blobs(self.folder / "blobs")
        self.work = LocalWork(
            plan=self.plan,
            contribution=vectors,
            caps=self.caps,
            learning=FilmLearning(self.plan, vectors, self.cohort, self.state, ("cpu",)),
            state=self.state,
            ledger=self.ledger,
            blobs=blobs,
            guard=ModelGuard(first, step_bound(self.plan, vectors), self.state.models, blobs),
        )
        peers = Peers(self.identity, self.state)
        peers.learn(self.certificates, self.plan)
        self.participant = Participant(
            self.identity,
            peers,
            self.work,
            self.link,
            self.link.stop,
            1 << 20,  # type: ignore[arg-type]
            gate=OpenGate(),
        )

    def tell(self, instruction: Instruction) -> list[Any]:
        """Hand one instruction over; returns what left the site because of it."""
        answers, uploads = len(self.link.answers), len(self.link.uploads)
        self.participant._obey(instruction)
        layout = self.work.contribution.layout
        vectors = [unpack(data, layout) for _, data in self.link.uploads[uploads:]]
        return [*self.link.answers[answers:], *vectors]

    def metrics_of(self, vector: Any) -> Any:
        return self.work.contribution.layout.split(vector)["metrics"]


class Consortium:
    """Four hospitals, enrolled, with one authority and the models of a study."""

    def __init__(self, folder: Path, plans: Mapping[str, StudyPlan] | None = None) -> None:
        torch.set_num_threads(1)
        now = datetime.now(UTC)
        self.models: dict[Digest, bytes] = {}
        self.follow(plan())
        made = authority.create(folder / "authority", "attacked", now=now, valid_days=9)
        keys = {name: keyfile.new_key() for name in NAMES}
        from primia.identity.enrolment import make_request

        certificates = {
            name: made.issue_site(make_request(key), SiteId(name), now=now, valid_days=9)
            for name, key in keys.items()
        }
        pems = tuple(to_pem(c) for c in certificates.values())
        self.hospitals: dict[SiteId, Hospital] = {}
        for seed, name in enumerate(NAMES):
            (folder / name).mkdir(mode=0o700)
            site = SiteId(name)
            self.hospitals[site] = Hospital(
                site=site,
                folder=folder / name,
                identity=SiteIdentity(
                    site, "127.0.0.1:1", certificates[name], made.certificate, keys[name]
                ),
                plan=(plans or {}).get(name, self.plan),
                cohort=Cohort(films(10, seed), films(5 + seed, 100 + seed), 0, ()),
                link=FalseLink(self.models),
                certificates=pems,
            )
        self.attempt = 0

    def follow(self, plan: StudyPlan) -> None:
        """The coordinator's plan, and models that its rounds can have made."""
        self.plan = plan
        made = dict(model(number, plan) for number in range(4))
        self.models |= made
        self.digests = tuple(made)

    def round_id(
        self, number: int = 1, kind: RoundKind = RoundKind.TRAIN, model: int = 0, **changes: Any
    ) -> RoundId:
        """A new attempt, as the coordinator may name it."""
        self.attempt += 1
        made = RoundId(plan_digest(self.plan), number, self.attempt, kind, self.digests[model])
        return replace(made, **changes)

    def run(self, round_id: RoundId, sites: tuple[str, ...] = NAMES) -> Commit | Abort:
        """One attempt among `sites`, the coordinator's own machine on the lying side."""
        first = next(iter(self.hospitals.values()))
        machine = CoordinatorRound(
            RoundTerms(
                round=round_id,
                invited=tuple(SiteId(s) for s in sorted(sites)),
                quorum=3,
                deadline_s=10.0,
                grace_s=1.0,
                stage_timeout_s=1.0,
                layout=first.work.contribution.layout,
                verify=first.participant._peers.verify,
            ),
            0.0,
        )
        now, commands = 0.0, machine.start()
        while True:
            for command in commands:
                if isinstance(command, Commit | Abort):
                    return command
            told, commands = commands, []
            phase = machine.phase
            for tell in told:
                if machine.phase is not phase:
                    break
                for what in self.hospitals[tell.site].tell(tell.instruction):  # type: ignore[union-attr]
                    event: Event = Answered(tell.site, what)  # type: ignore[union-attr]
                    if isinstance(what, np.ndarray):
                        packed = pack(what, machine.terms.layout)
                        event = UpdateArrived(tell.site, packed, sha256(packed))  # type: ignore[union-attr]
                    commands += machine.handle(event, now)
            if not commands and machine.phase not in (Phase.DONE, Phase.ABORTED):
                now += 20.0
                commands = machine.handle(Tick(), now)
