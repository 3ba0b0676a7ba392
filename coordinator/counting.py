"""What a released sum comes to: the scores, the vote, and the model that the round makes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from coordinator.rows import ModelRow, Verdict
from coordinator.state import CoordinatorState
from coordinator.terms import StudyTerms
from primia.federation.contribution import Aggregate
from primia.federation.optimiser import pack_state, pack_weights, step, unpack_state
from primia.federation.robust import decode_groups, has_majority
from primia.protocol.events import Commit
from primia.protocol.messages import RoundId, RoundKind
from primia.storage.blobs import Blobs
from primia.types import SiteId


@dataclass(frozen=True)
class Counted:
    """verdict: on the model the round started from; None when it was counted before.
    model: what the round made; None for an evaluation. update_norm: None when it was not applied.
    """

    verdict: Verdict | None
    model: ModelRow | None = None
    update_norm: float | None = None


def count(
    terms: StudyTerms, state: CoordinatorState, blobs: Blobs, round_id: RoundId, commit: Commit
) -> Counted:
    """Decode a sum and take the step; on return the model's blobs are durable, and no row is.

    Raises RoundFailed or PeerError for a sum that honest sites cannot have made.
    """
    sums = decode_groups(terms.contribution, commit.totals, commit.groups)
    verdict = _verdict(terms, state, round_id, sums, commit.contributors)
    if round_id.kind is RoundKind.EVALUATE:
        return Counted(verdict)
    model = _step(terms, state, blobs, round_id.number, sums)
    if (verdict and verdict.returned_to is not None) or _was_rejected(state, model):
        # The update was computed on a rejected model, and goes with it; or it leads to one.
        return Counted(verdict, replace(state.accepted_model(), number=round_id.number))
    return Counted(verdict, model, float(np.linalg.norm(sums.mean_update)))


def _verdict(
    terms: StudyTerms,
    state: CoordinatorState,
    round_id: RoundId,
    sums: Aggregate,
    contributors: tuple[SiteId, ...],
) -> Verdict | None:
    """What the sum says of the model the round started from. Model 0 cannot be rejected."""
    if round_id.kind is RoundKind.RETRAIN:
        return None
    before = state.newest_model().number
    scores = terms.score(sums.metrics, contributors)
    if not terms.voting:
        return Verdict(before, scores)
    accepted = before == 0 or has_majority(sums.votes, len(contributors))
    returned_to = None if accepted else state.accepted_model().number
    return Verdict(before, scores, sums.votes, returned_to)


def _was_rejected(state: CoordinatorState, model: ModelRow) -> bool:
    """Without noise the same updates may come again; no site counts a model a second time."""
    return state.has_model(model.digest, rejected=True)


def _step(
    terms: StudyTerms, state: CoordinatorState, blobs: Blobs, number: int, sums: Aggregate
) -> ModelRow:
    """The model that the round makes; its blobs are durable."""
    before = unpack_state(blobs.get(state.newest_model().state))
    after = step(before, sums.mean_update, terms.optimiser)
    return ModelRow(number, blobs.put(pack_weights(after.weights)), blobs.put(pack_state(after)))
