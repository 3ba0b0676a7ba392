"""Which global models this site works on: model 0 as it makes it itself, then bounded steps.

The coordinator names each round's model. Weights made for reading films out of an update would have
to come from it, too, so each model is held against what the plan's honest rounds can have made of
the last ones taken here (`primia.federation.bounded`). A refusal declines the round and ends
nothing: the next model is looked at afresh, and a person can accept one by its digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import structlog

from primia.errors import PeerError, PolicyRefused, StateError
from primia.federation.bounded import Reach, can_have_become
from primia.federation.optimiser import Vector, unpack_weights
from primia.protocol.messages import RoundId
from primia.storage.blobs import Blobs
from primia.storage.database import Database
from primia.types import Digest, sha256

log = structlog.get_logger()

KEPT = 2
"""Models whose weights are kept. After a vote a study goes on from the accepted model, which is the
newest but one at a site that saw both."""

SCHEMA = """
    CREATE TABLE models (
        id INTEGER PRIMARY KEY AUTOINCREMENT, plan TEXT NOT NULL, model TEXT NOT NULL,
        number INTEGER NOT NULL, taken_at REAL NOT NULL
    ) STRICT;
    CREATE TABLE accepted_models (
        model TEXT PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, account TEXT NOT NULL,
        made_at REAL NOT NULL
    ) STRICT;
    INSERT INTO models (plan, model, number, taken_at)
    SELECT plan, model, max(number), max(made_at) FROM updates
    GROUP BY plan, model ORDER BY max(id);
"""

REFUSED = """
    CREATE TABLE refused_models (model TEXT PRIMARY KEY, refused_at REAL NOT NULL) STRICT;
"""


class ModelRefused(PolicyRefused):
    """A round's model is none that honest rounds can have made. Nothing was trained on it."""


class ModelBook:
    """The models that this site took, and those that people here accepted by their digest."""

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db, self._clock = db, clock

    def take(self, round_id: RoundId) -> None:
        """Remember that this site works on the round's model."""
        with self._db.transaction() as db:
            last = db.execute("SELECT * FROM models ORDER BY id DESC LIMIT 1").fetchone()
            now = (round_id.plan, round_id.model, round_id.number)
            if last is None or (last["plan"], last["model"], last["number"]) != now:
                db.execute(
                    "INSERT INTO models (plan, model, number, taken_at) VALUES (?, ?, ?, ?)",
                    (*now, self._clock()),
                )

    def taken(self, plan: Digest) -> list[tuple[Digest, int]]:
        """Each model taken under the plan and the last round it was taken in; the newest first."""
        with self._db.transaction() as db:
            rows: list[Any] = db.execute(
                "SELECT model, number FROM models WHERE plan = ? ORDER BY id DESC", (plan,)
            ).fetchall()
        found: dict[Digest, int] = {}
        for row in rows:
            found.setdefault(Digest(row["model"]), row["number"])
        return list(found.items())

    def refuse(self, model: Digest) -> None:
        """Remember that this site declined a round for its model."""
        with self._db.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO refused_models VALUES (?, ?)", (model, self._clock())
            )

    def refused(self, model: Digest) -> bool:
        """Whether it ever did; models refused by versions that kept no list are not known."""
        with self._db.transaction() as db:
            row = db.execute("SELECT 1 FROM refused_models WHERE model = ?", (model,)).fetchone()
        return row is not None

    def accept(self, model: Digest, *, name: str, role: str, account: str) -> None:
        """Record that a person answers for this model."""
        with self._db.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO accepted_models VALUES (?, ?, ?, ?, ?)",
                (model, name, role, account, self._clock()),
            )

    def accepted(self, model: Digest) -> bool:
        """Whether a person did."""
        with self._db.transaction() as db:
            row = db.execute("SELECT 1 FROM accepted_models WHERE model = ?", (model,)).fetchone()
        return row is not None


@dataclass(frozen=True, eq=False)
class ModelGuard:
    """first: model 0, made here from the plan. step: how far a round moves a model at most."""

    first: Vector
    step: Reach
    book: ModelBook
    blobs: Blobs

    def check(self, round_id: RoundId, data: bytes) -> None:
        """Take a round's model, or raise ModelRefused; PeerError for bytes that are no model.

        What was taken is durable on return: the next models are held against it.
        """
        weights = unpack_weights(data, self.first.size)
        if sha256(data) != round_id.model:
            raise PeerError("the global model has another digest than its round; not trained on")
        taken = self.book.taken(round_id.plan)
        if round_id.model not in dict(taken):
            if self.book.accepted(round_id.model):
                log.warning("model_accepted", round=round_id.number, model=round_id.model)
            else:
                self._explain(round_id, weights, taken)
        self.blobs.put(data)
        self.book.take(round_id)

    def kept(self, plan: Digest) -> set[Digest]:
        """Blobs that the next models are held against."""
        return {model for model, _ in self.book.taken(plan)[:KEPT]}

    def _explain(self, round_id: RoundId, weights: Vector, taken: list[tuple[Digest, int]]) -> None:
        """Return if the model follows from one of those known here; ModelRefused if from none."""
        nearest: tuple[int, Reach] | None = None
        for number, known in self._known(taken):
            steps = round_id.number - number
            follows, apart = can_have_become(weights, known, self.step, steps=steps)
            if follows:
                return
            if nearest is None or apart.norm < nearest[1].norm:
                nearest = number, apart
        assert nearest is not None  # model 0 is always known
        self.book.refuse(round_id.model)
        since, apart = nearest
        steps = max(0, round_id.number - since)
        raise ModelRefused(
            f"round {round_id.number}: its model lies {apart.norm:.4g} (single weights "
            f"{apart.coordinate:.4g}) from that of round {since}, and {steps} honest rounds move "
            f"it by {steps * self.step.norm:.4g} ({steps * self.step.coordinate:.4g}) at most; "
            "nothing was trained. Ask the lead what became of the study; if the model is right: "
            f"primia-worker plan accept-model {round_id.model} --as NAME "
            "--role ROLE"
        )

    def _known(self, taken: list[tuple[Digest, int]]) -> Iterator[tuple[int, Vector]]:
        """Round and weights of the models to hold a new one against, the newest first."""
        for model, number in taken[:KEPT]:
            try:
                yield number, unpack_weights(self.blobs.get(model), self.first.size)
            except StateError as err:
                # Taken before there was this guard, or damaged: the older ones have to do.
                log.warning("model_not_kept", model=model, reason=str(err))
        yield 1, self.first
