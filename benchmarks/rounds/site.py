"""One hospital that does nothing: `python -m benchmarks.rounds.site FOLDER`.

The worker's own loop, link, books, ledger and round machine; in place of training a stored vector
of one constant. Neither torch nor films are loaded.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.rounds.study import PARAMETERS, caps
from primia.config import plan_from_canonical
from primia.federation.contribution import Contribution
from primia.learning.terms import OnStep
from primia.logs import configure
from primia.privacy.ledger import Ledger
from primia.protocol.messages import RoundId, RoundKind
from primia.storage.blobs import Blobs
from primia.storage.folder import StateFolder
from primia.study import contribution, step_bound
from primia.types import Ring
from primia.wire.client import FederationClient
from worker.guard import ModelGuard
from worker.home import load
from worker.participant import Participant
from worker.state import WorkerState
from worker.study import Peers, checked_plan
from worker.work import LocalWork


@dataclass(frozen=True)
class Nothing:
    """The model is fetched and thrown away; the update is the same everywhere.

    Not zero: the next model would be the one that was counted already.
    """

    fixed: Contribution

    def contribute(self, round_id: RoundId, model: bytes, on_step: OnStep) -> Ring:  # noqa: ARG002
        """A constant, encoded."""
        update = np.full(self.fixed.parameters, 0.25, np.float32)
        counts = np.zeros(self.fixed.metrics, np.int64)
        trains = round_id.kind is not RoundKind.EVALUATE
        return self.fixed.encode(update if trains else None, weight=1, metrics=counts)[0]


class Open:
    """Nobody has to approve a benchmark."""

    is_open = in_hours = True

    def check(self) -> None:
        """It may."""

    def check_hours(self) -> None:
        """At any hour."""


def main(folder: Path) -> None:
    """Take part until the study is over."""
    configure(json=True)
    with StateFolder(folder), Ledger(folder / "ledger.db") as ledger:
        identity, state = load(folder), WorkerState(folder)
        link = FederationClient(identity.address, identity.tls())
        bundle = link.get_study()
        plan = plan_from_canonical(bundle.plan)
        checked_plan(bundle, identity, caps(), state)
        peers = Peers(identity, state)
        peers.learn(bundle.sites, plan)
        fixed = contribution(plan, PARAMETERS)
        blobs = Blobs(folder / "blobs")
        first = np.zeros(PARAMETERS, np.float32)
        work = LocalWork(
            plan=plan,
            contribution=fixed,
            caps=caps(),
            learning=Nothing(fixed),
            state=state,
            ledger=ledger,
            blobs=blobs,
            guard=ModelGuard(first, step_bound(plan, fixed), state.models, blobs),
        )
        most = 4 * PARAMETERS + 4096
        Participant(identity, peers, work, link, threading.Event(), most, gate=Open()).serve()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
