"""The benchmark's study: its plan, and a coordinator's folder with a model of 1 MB pinned."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from coordinator import home
from coordinator.rows import ModelRow, PinnedStudy
from coordinator.state import CoordinatorState
from primia.config.plan import StudyPlan, canonical_bytes, plan_digest
from primia.config.site import Caps
from primia.config.strict import validate
from primia.federation.optimiser import ServerState, pack_state, pack_weights
from primia.identity.signing import sign
from primia.storage.blobs import Blobs
from primia.study import optimiser
from primia.types import SiteId
from primia.wire.labels import PLAN_LABEL

PARAMETERS = 250_000  # float32: 1 MB


def caps() -> Caps:
    """A hospital that agrees to the plan below."""
    return Caps(max_epsilon=1000.0, max_delta=1e-3, allow_no_privacy=True)


def plan_of(sites: int, rounds: int, *, private: bool) -> StudyPlan:
    """private: every round is priced by each hospital's accountant, too, before it is charged."""
    return validate(
        StudyPlan,
        {
            "study": "rounds",
            "model": {"name": "small-cnn", "input_size": 28, "classes": ["a", "b"]},
            "sites": [f"site-{i:02d}" for i in range(sites)],
            "rounds": rounds,
            "schedule": {"quorum": sites, "deadline_s": 60.0, "grace_s": 5.0},
            "training": {
                "patient_sampling_rate": 0.1,
                "local_steps": 10,
                "expected_patients": 50.0,
                "learning_rate": 0.1,
            },
            "privacy": {"delta": 1e-4, "noise_multiplier": 1.0} if private else "none",
        },
        where="benchmark",
    )


def found(folder: Path, plan: StudyPlan, port: int) -> dict[str, str]:
    """Authority, pinned plan and model 0 in `folder`; a code for each site.

    Pinned here and not by `start`, whose zoo has no model of just this size.
    """
    home.initialise(folder, plan.study)
    codes = {
        name: home.invite(folder, SiteId(name), f"127.0.0.1:{port}")[0].code()
        for name in plan.sites
    }
    state, blobs = CoordinatorState(folder), Blobs(folder / "blobs")
    start = ServerState.start(np.zeros(PARAMETERS, np.float32), optimiser(plan))
    model = ModelRow(0, blobs.put(pack_weights(start.weights)), blobs.put(pack_state(start)), None)
    _, key = home.coordinator_identity(folder, state)
    data = canonical_bytes(plan)
    pinned = PinnedStudy(data, sign(key, PLAN_LABEL, data), plan_digest(plan), PARAMETERS)
    state.pin_study(pinned, model)
    state.note("state", "running")
    state.close()
    return codes
