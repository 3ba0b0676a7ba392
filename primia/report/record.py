"""What the coordinator knows of a study: the one source of `result.json` and the report.

Only facts that may leave the hospitals: masked sums, names of sites, digests, times. Plain frozen
data; `to_json` and `from_json` are inverse.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from primia.documents import parse, typed
from primia.errors import DataError

SCHEMA = "primia-result/1"
MAX_BYTES = 64 << 20  # of one file


@dataclass(frozen=True)
class Scores:
    """Quality of one global model on all validation films of the sites in the sum."""

    films: int
    sites: tuple[str, ...]  # whose films are in the sum
    loss: float  # mean cross entropy, nats
    auc: float  # binary, or macro mean of one against the rest
    auc_per_class: tuple[float, ...]
    accuracy: float
    balanced_accuracy: float
    confusion: tuple[tuple[int, ...], ...]  # row: truth, column: prediction
    roc: tuple[tuple[tuple[float, float], ...], ...]  # per class: (false, true positive rate)


@dataclass(frozen=True)
class Absence:
    """A site that is not in a round's sum, where it was lost, and why."""

    site: str
    phase: str
    reason: str
    code: str = ""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a round; exactly one attempt of each round is committed.

    votes: contributors that accept the model the round started from; None without a vote.
    returned_to: number of the accepted model that took its place when no majority accepted it;
        the update of such a round is not applied.
    """

    attempt: int
    number: int
    kind: str  # train | retrain (an update without counts) | evaluate
    outcome: str  # committed | aborted | open
    reason: str
    contributors: tuple[str, ...]
    absent: tuple[Absence, ...]
    opened_at: float  # seconds since 1970, UTC
    closed_at: float | None
    update_norm: float | None  # L2 of the mean update, where it was applied
    votes: int | None = None
    returned_to: int | None = None
    code: str = ""  # of the reason

    @property
    def lost(self) -> tuple[Absence, ...]:
        """Sites lost for a reason of their own, not by what ended the attempt for all."""
        if self.outcome != "aborted":
            return self.absent
        return tuple(a for a in self.absent if a.reason != self.reason)


@dataclass(frozen=True)
class ModelRecord:
    """One global model: 0 is the initial one, r the one that round r made or returned to."""

    number: int
    digest: str
    scores: Scores | None  # None until a later round has evaluated it
    accepted: bool | None = None  # by the sites, where they vote; None until then


@dataclass(frozen=True)
class SiteRecord:
    """One hospital, as the coordinator sees it; the hospital's own ledger decides.

    rounds_charged: training rounds for which it had an update ready, also in attempts that
        aborted. epsilon: what the plan prices for those; None without differential privacy.
    """

    site: str
    certificate: str  # SHA-256 fingerprint
    enrolled_at: float
    struck_at: float | None
    rounds_contributed: int
    rounds_charged: int
    epsilon: float | None


@dataclass(frozen=True)
class StudyRecord:
    """A study, whole."""

    study: str
    state: str  # running | finished | stopped
    plan: dict[str, Any]  # as signed
    plan_digest: str
    planned_epsilon: float | None  # a site's ε if it takes part in every round, None without DP
    delta: float | None
    parameters: int
    attempts: tuple[Attempt, ...]
    models: tuple[ModelRecord, ...]
    best: int | None  # number of the model with the highest AUC
    sites: tuple[SiteRecord, ...]
    versions: dict[str, str]
    written_at: float
    notes: tuple[str, ...] = ()  # what a reader has to know first, a sentence each
    schema: str = SCHEMA

    @property
    def committed(self) -> tuple[Attempt, ...]:
        """The committed training rounds, in order."""
        done = (a for a in self.attempts if a.kind != "evaluate" and a.outcome == "committed")
        return tuple(sorted(done, key=lambda a: a.number))

    @property
    def returns(self) -> tuple[Attempt, ...]:
        """The committed attempts whose sites rejected the model they were given, in order."""
        return tuple(a for a in self.attempts if a.returned_to is not None)


def to_json(record: StudyRecord) -> str:
    """`record` as indented JSON text."""
    return json.dumps(asdict(record), indent=2, allow_nan=False)


def from_json(text: str) -> StudyRecord:
    """Read what `to_json` wrote. Raises DataError when it is something else."""
    try:
        raw = parse(text, MAX_BYTES)
        if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
            raise ValueError("another schema")
        found: StudyRecord = typed(StudyRecord, raw)
        for model in found.models:
            if model.scores is not None:
                _check(model.scores, f"the scores of model {model.number}")
        return found
    except ValueError as err:
        raise DataError(f"this is not a {SCHEMA} file ({err}); export the study again") from err


def _check(scores: Scores, where: str) -> None:
    """Raises ValueError where the parts of `scores` do not fit each other."""
    classes = len(scores.confusion)
    shapes = {len(scores.roc), len(scores.auc_per_class), *map(len, scores.confusion)}
    counts = [n for row in scores.confusion for n in row]
    if classes < 2 or shapes != {classes} or len({len(curve) for curve in scores.roc}) != 1:
        raise ValueError(f"{where} are of different numbers of classes")
    if min(counts) < 0 or sum(counts) != scores.films:
        raise ValueError(f"{where} do not add up to their films")
    shares = [scores.auc, scores.accuracy, scores.balanced_accuracy, *scores.auc_per_class]
    shares += [share for curve in scores.roc for point in curve for share in point]
    if not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"{where} hold a share that is none")


def scores_from_dict(raw: dict[str, Any]) -> Scores:
    """Read scores from parsed JSON. Raises KeyError or TypeError when it is something else."""
    return Scores(
        films=raw["films"],
        sites=tuple(raw["sites"]),
        loss=raw["loss"],
        auc=raw["auc"],
        auc_per_class=tuple(raw["auc_per_class"]),
        accuracy=raw["accuracy"],
        balanced_accuracy=raw["balanced_accuracy"],
        confusion=tuple(tuple(row) for row in raw["confusion"]),
        roc=tuple(tuple((p[0], p[1]) for p in curve) for curve in raw["roc"]),
    )
