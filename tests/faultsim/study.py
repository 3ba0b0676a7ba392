"""One small study, made once: certificates, a signed plan, a model of ten floats.

Its certificates are a file, good for a hundred years: their bytes are in what is signed and logged,
and a seed has to be the same history everywhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.rows import ModelRow, PinnedStudy
from coordinator.terms import StudyTerms
from primia.config import StudyPlan, canonical_bytes, plan_digest
from primia.config.site import Caps
from primia.federation.contribution import Contribution
from primia.federation.optimiser import FedAvg, ServerState, pack_state, pack_weights
from primia.identity import keyfile
from primia.identity.authority import create
from primia.identity.certificate import from_pem, to_pem
from primia.identity.enrolment import make_request
from primia.identity.signing import sign, verify
from primia.types import SiteId, sha256
from primia.wire.handler import StudyBundle
from primia.wire.labels import PLAN_LABEL, ROUND_LABEL
from worker.home import SiteIdentity

CERTIFICATES = Path(__file__).with_name("certificates.json")
PARAMETERS = 10
METRICS = 4
NAMES = ("alder", "birch", "cedar", "dogwood", "elm")
CAPS = Caps(max_epsilon=200.0, max_delta=1e-3, min_patients=2)
CONTRIBUTION = Contribution(
    parameters=PARAMETERS, metrics=METRICS, bits=20, value_range=4.0, wire_bits=24
)
OPTIMISER = FedAvg(1.0, 0.5)


@dataclass(frozen=True)
class Study:
    """What all histories of one plan share. `enrolled`: site → certificate (PEM), fingerprint."""

    plan: StudyPlan
    bundle: StudyBundle
    coordinator: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    identities: dict[SiteId, SiteIdentity]
    enrolled: dict[SiteId, tuple[bytes, str]]

    @property
    def pinned(self) -> PinnedStudy:
        """As the coordinator keeps it."""
        return PinnedStudy(
            self.bundle.plan, self.bundle.signature, plan_digest(self.plan), PARAMETERS
        )

    def terms(self) -> StudyTerms:
        """As the coordinator's driver wants them; the counts themselves are the scores."""
        plan = self.plan

        def score(counts: npt.NDArray[np.int64], sites: tuple[SiteId, ...]) -> dict[str, Any]:
            return {"counts": counts.tolist(), "sites": list(sites), "auc": 0.5, "loss": 0.0}

        return StudyTerms(
            plan=plan_digest(plan),
            roster=plan.site_ids,
            rounds=plan.rounds,
            quorum=plan.schedule.quorum,
            deadline_s=plan.schedule.deadline_s,
            grace_s=plan.schedule.grace_s,
            stage_timeout_s=plan.schedule.stage_timeout_s,
            contribution=CONTRIBUTION,
            cipher=plan.aggregation.mask_cipher,
            groups=1,
            threads=1,
            score=score,
            optimiser=OPTIMISER,
        )

    def verify(self, site: SiteId, statement: bytes, signature: bytes) -> bool:
        """As the coordinator checks a site's signature."""
        owner = self.identities.get(site)
        return owner is not None and verify(owner.certificate, ROUND_LABEL, statement, signature)


def first_model() -> tuple[ModelRow, bytes, bytes]:
    """Model 0 and its two blobs."""
    state = ServerState.start(np.zeros(PARAMETERS, np.float32), OPTIMISER)
    weights, packed = pack_weights(state.weights), pack_state(state)
    return ModelRow(0, sha256(weights), sha256(packed)), weights, packed


@lru_cache
def study(sites: int, quorum: int, rounds: int) -> Study:
    """The study of so many sites; made once in a process."""
    plan = StudyPlan.model_validate(
        {
            "study": "simulated",
            "model": {
                "name": "small-cnn", "input_size": 28, "channels": 1, "classes": ("no", "yes"),
            },
            "sites": NAMES[:sites],
            "rounds": rounds,
            "schedule": {
                "deadline_s": 60.0, "quorum": quorum, "grace_s": 5.0, "stage_timeout_s": 20.0,
            },
            "training": {
                "patient_sampling_rate": 0.05, "local_steps": 4, "expected_patients": 20,
                "learning_rate": 0.1,
            },
            "privacy": {"noise_multiplier": 1.0, "delta": 1e-4},
        }
    )  # fmt: skip
    made = json.loads(CERTIFICATES.read_text())
    authority = from_pem(made["authority"].encode())
    identities, enrolled = {}, {}
    for name in plan.site_ids:
        pem, own = made["sites"][name]["certificate"].encode(), _key(made["sites"][name]["key"])
        identities[name] = SiteIdentity(name, "127.0.0.1:1", from_pem(pem), authority, own)
        enrolled[name] = (pem, name)
    key = _key(made["coordinator"]["key"])
    data = canonical_bytes(plan)
    bundle = StudyBundle(
        plan=data,
        signature=sign(key, PLAN_LABEL, data),
        coordinator=made["coordinator"]["certificate"].encode(),
        sites=tuple(pem for pem, _ in enrolled.values()),
    )
    return Study(plan, bundle, from_pem(bundle.coordinator), key, identities, enrolled)


def _key(number: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int(number, 16), ec.SECP256R1())


def make_certificates() -> None:
    """Write `certificates.json` anew: python -c 'from tests.faultsim.study import *; …'."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    with TemporaryDirectory() as folder:
        made = create(Path(folder) / "authority", "simulated", now=now, valid_days=36500)
        key = keyfile.new_key()
        coordinator = made.issue_coordinator(
            key.public_key(), "simulated", now=now, valid_days=36500
        )
        found: dict[str, Any] = {
            "authority": to_pem(made.certificate).decode(),
            "coordinator": _written(coordinator, key),
            "sites": {},
        }
        for name in NAMES:
            key = keyfile.new_key()
            site = made.issue_site(make_request(key), SiteId(name), now=now, valid_days=36500)
            found["sites"][name] = _written(site, key)
    CERTIFICATES.write_text(json.dumps(found, indent=1) + "\n")


def _written(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    return {
        "certificate": to_pem(certificate).decode(),
        "key": f"{key.private_numbers().private_value:x}",
    }
