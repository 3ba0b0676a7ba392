"""What the next attempt is: which round, of which kind, among whom. Decided from the record alone.

A site that signed for a sum counts for no other one: that sum may have been opened, and the model
counted over other sites would show the difference. So the signers are brought together again, once;
then the round trains again and counts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from coordinator.state import AttemptRow, ModelRow
from primia.protocol.messages import RoundKind
from primia.types import SiteId


@dataclass(frozen=True)
class Agenda:
    """The record as it stands, and who is there.

    rounds: of training; the round after them evaluates. model: the newest. invited: enrolled sites
    of the roster; present: those of them that were heard of lately; benched: those of them that a
    round goes on without (`coordinator.bench`).
    shared_noise: each update holds a share of the noise only.
    """

    rounds: int
    shared_noise: bool
    attempts: Sequence[AttemptRow]
    model: ModelRow
    invited: frozenset[SiteId]
    present: frozenset[SiteId]
    benched: frozenset[SiteId] = frozenset()

    @cached_property
    def _done(self) -> frozenset[int]:
        return frozenset(a.round.number for a in self.attempts if a.outcome == "committed")

    @cached_property
    def number(self) -> int:
        """The first round that is not committed; above `rounds` + 1 when all are."""
        return next(n for n in range(1, self.rounds + 3) if n not in self._done)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do. A last model that was counted already needs no round."""
        return self.number > self.rounds + 1 or (self.number > self.rounds and self._counted)

    @property
    def _counted(self) -> bool:
        """The study returned to the model, or its updates were zero: no site counts it again."""
        return self.model.scores is not None or any(
            a.round.model == self.model.digest and a.round.number in self._done
            for a in self.attempts
        )

    @cached_property
    def _tried(self) -> list[AttemptRow]:
        return [a for a in self.attempts if a.round.number == self.number]

    @cached_property
    def kind(self) -> RoundKind:
        """What the sites may be asked for.

        A model that is left without scores is neither accepted nor rejected: the next that is
        counted decides.
        """
        if self.number > self.rounds:
            return RoundKind.EVALUATE
        if self._counted or any(a.round.kind is RoundKind.RETRAIN for a in self._tried):
            return RoundKind.RETRAIN
        signed = [a for a in self._tried if a.survivors]
        if not signed:
            return RoundKind.TRAIN
        promised = self._promised_to(RoundKind.TRAIN)
        failed = self._tried[-1] is not signed[-1] and not self._tried[-1].interrupted
        if promised and promised <= self.present and not failed:
            return RoundKind.TRAIN
        return RoundKind.RETRAIN

    @property
    def invitees(self) -> frozenset[SiteId]:
        """Those that signed for each other, if all are here; else everybody but the benched: a
        site that is away may still come before the round ends."""
        promised = self._promised_to(self.kind)
        return promised if promised and promised <= self.present else self.invited - self.benched

    @property
    def a_signer_is_away(self) -> bool:
        """Whether a round would go better if somebody came back who signed in its last attempt."""
        promised = self._promised_to(self._tried[-1].round.kind) if self._tried else frozenset()
        return promised <= self.invited and not promised <= self.present

    def _promised_to(self, kind: RoundKind) -> frozenset[SiteId]:
        """The sites that signed for each other in an attempt of this kind that then aborted.

        Their updates join a sum of exactly these sites, without another charge. With shared noise
        they join none: nobody is bound.
        """
        if self.shared_noise and kind is not RoundKind.EVALUATE:
            return frozenset()
        signed = [a.survivors for a in self._tried if a.round.kind is kind and a.survivors]
        return frozenset(signed[-1]) if signed else frozenset()
