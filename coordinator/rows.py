"""What the coordinator's database says, as plain values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from coordinator.reasons import RESTARTED
from primia.protocol.messages import RoundId, RoundKind
from primia.report.record import Absence
from primia.types import Digest, SiteId


@dataclass(frozen=True)
class PinnedStudy:
    """The plan as signed when the study started."""

    plan: bytes
    signature: bytes
    digest: Digest
    parameters: int


@dataclass(frozen=True)
class HeadTrouble:
    """Books that went back. site: who showed it, None for ourselves; whose: site | coordinator."""

    site: SiteId | None
    whose: str
    attempt: int
    reason: str


@dataclass(frozen=True)
class AttemptRow:
    """One attempt, with those who were missing from it."""

    round: RoundId
    opened_at: float
    phase: str
    waiting_for: tuple[str, ...]
    closed_at: float | None
    outcome: str  # committed | aborted | open
    reason: str
    update_norm: float | None
    votes: int | None  # contributors that accept the model the round started from
    returned_to: int | None  # number of the last accepted model, when that one was rejected
    contributors: tuple[str, ...]
    survivors: tuple[SiteId, ...]  # were asked to sign that their sum be opened
    charged: tuple[str, ...]  # had an update ready, so have charged it
    absent: tuple[Absence, ...]
    carried: str | None = None  # what the open attempt is resumed from, with the blobs `sums`
    sums: tuple[Digest, ...] = ()
    code: str = ""  # of `coordinator.reasons`, where it was aborted

    @property
    def interrupted(self) -> bool:
        """Whether it ended with the coordinator's own process, and not by what a site did."""
        return self.code == RESTARTED


@dataclass(frozen=True)
class ModelRow:
    """A committed global model. Blob `digest` is what sites fetch, blob `state` the checkpoint.

    scores: None until a sum has counted it. accepted: None until that sum has voted on it.
    """

    number: int
    digest: Digest
    state: Digest
    scores: dict[str, Any] | None = None
    accepted: bool | None = None


@dataclass(frozen=True)
class Verdict:
    """What a sum says of the model that its round started from.

    votes: contributors that accept it; None when the plan has no vote.
    returned_to: number of the model that takes its place when it was rejected.
    """

    number: int
    scores: dict[str, Any]
    votes: int | None = None
    returned_to: int | None = None


@dataclass(frozen=True)
class Participation:
    """How one site fared in one attempt."""

    site: SiteId
    charged: bool
    contributed: bool
    phase: str
    reason: str
    code: str = ""  # of `coordinator.reasons`


def model_row(row: Any) -> ModelRow:
    """A row of `models`."""
    return ModelRow(
        row["number"], Digest(row["digest"]), Digest(row["state"]),
        None if row["scores"] is None else json.loads(row["scores"]),
        None if row["accepted"] is None else bool(row["accepted"]),
    )  # fmt: skip


def attempt_row(plan: Digest, row: Any, sites: list[Any]) -> AttemptRow:
    """A row of `attempts`, with those of `participation` that belong to it."""
    return AttemptRow(
        round=RoundId(
            plan, row["number"], row["attempt"], RoundKind(row["kind"]), Digest(row["model"])
        ),
        opened_at=row["opened_at"],
        phase=row["phase"],
        waiting_for=tuple(json.loads(row["waiting_for"])),
        closed_at=row["closed_at"],
        outcome=row["outcome"] or "open",
        reason=row["reason"],
        update_norm=row["update_norm"],
        votes=row["votes"],
        returned_to=row["returned_to"],
        contributors=tuple(p["site"] for p in sites if p["contributed"]),
        survivors=tuple(json.loads(row["survivors"])),
        charged=tuple(json.loads(row["ready"]))
        if row["outcome"] is None
        else tuple(p["site"] for p in sites if p["charged"]),
        absent=tuple(
            Absence(p["site"], p["phase"], p["reason"], p["code"])
            for p in sites
            if not p["contributed"] and p["reason"]
        ),
        carried=row["carried"],
        sums=tuple(json.loads(row["sums"])),
        code=row["code"],
    )
