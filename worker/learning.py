"""What a site's films say in a round: the update, the counts, the vote. It loads torch."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from primia.config.plan import StudyPlan
from primia.contribute import vector_of
from primia.federation.contribution import Contribution
from primia.federation.optimiser import unpack_weights
from primia.imaging.dataset import Cohort
from primia.learning.clipped import ClippedSum
from primia.learning.terms import OnStep
from primia.protocol.messages import RoundId
from primia.types import Ring
from worker.state import DOMINATED, WorkerState

log = structlog.get_logger()


@dataclass(frozen=True)
class FilmLearning:
    """Trains and counts on the site's cohort; nothing of it is stored or charged here.

    devices: one for each process that shares a step.
    """

    plan: StudyPlan
    contribution: Contribution
    cohort: Cohort
    state: WorkerState
    devices: tuple[str, ...]

    def contribute(self, round_id: RoundId, model: bytes, on_step: OnStep) -> Ring:
        """The site's words for a round, noised and encoded. Raises DataError and PeerError."""
        vector, clipped = vector_of(
            self.plan,
            self.contribution,
            self.cohort,
            round_id.kind,
            unpack_weights(model, self.contribution.parameters),
            devices=self.devices,
            accepts=lambda auc: self.accepts(round_id, auc),
            on_step=on_step,
            notice=self._look_at,
        )
        if clipped:
            log.warning("update_clipped", round=round_id.number, coordinates=clipped)
        return vector

    def _look_at(self, batch: ClippedSum) -> None:
        """Remember that one patient outweighed the others in a sum, for `primia-worker doctor`.

        It follows from one patient, so it is in no log, metric or message, and stops nothing: a
        refusal would be heard outside (docs/adr/0016-models-a-site-takes.md).
        """
        if batch.is_dominated:
            self.state.note(DOMINATED, "1")

    def accepts(self, round_id: RoundId, auc: float) -> bool:
        """Whether this site accepts the round's model, by its AUC here.

        No, when that lies further below the best of earlier models than the plan allows
        (validation of the global model by the clients: BaFFLe, Andreina et al., ICDCS 2021).
        """
        tolerance = self.plan.evaluation.vote_tolerance
        score, best = self.state.add_score(round_id, auc)
        return tolerance is None or best is None or score >= best - tolerance
