"""What the next attempt is: which round, of which kind, among whom. Decided from the record alone.

A site that signed for a sum counts for no other one: that sum may have been opened, and the model
counted over other sites would show the difference. So the signers are brought together again, once;
then the round trains again and counts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from coordinator.rows import AttemptRow, ModelRow
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
        if not any(a.survivors for a in self._tried):
            return RoundKind.TRAIN
        lists = self._complete_lists(RoundKind.TRAIN)
        return RoundKind.TRAIN if self._turn(RoundKind.TRAIN) < len(lists) else RoundKind.RETRAIN

    @property
    def invitees(self) -> frozenset[SiteId]:
        """Those that signed for each other, if all are here; else everybody but the benched: a
        site that is away may still come before the round ends.

        Which list the sites did sign is known to them alone: they were asked to, and an answer
        may have been lost. So the lists take turns, the newest first, and everybody last.
        """
        choices = [*self._complete_lists(self.kind), self.invited - self.benched]
        return choices[self._turn(self.kind) % len(choices)]

    @property
    def a_signer_is_away(self) -> bool:
        """Whether a round would go better if somebody came back who signed in its last attempt."""
        lists = self._lists(self._tried[-1].round.kind) if self._tried else []
        return bool(lists) and lists[0] <= self.invited and not lists[0] <= self.present

    @property
    def struck_signers(self) -> frozenset[SiteId]:
        """Struck sites without which no sum of the closing evaluation can be opened any more.

        Not before an attempt with everybody else has failed, too: nobody may have signed.
        """
        lists = self._lists(self.kind)
        missing = [one - self.invited for one in lists]
        hopeless = bool(lists) and all(missing) and self._turn(self.kind) > 0
        if self.kind is not RoundKind.EVALUATE or not hopeless:
            return frozenset()
        return frozenset().union(*missing)

    @property
    def promised(self) -> frozenset[frozenset[SiteId]]:
        """Every list of sites that may have signed for each other."""
        return frozenset(self._lists(self.kind))

    def _complete_lists(self, kind: RoundKind) -> list[frozenset[SiteId]]:
        return [one for one in self._lists(kind) if one <= self.present]

    def _lists(self, kind: RoundKind) -> list[frozenset[SiteId]]:
        """Sites that were asked to sign for each other, in attempts of this kind that then
        aborted; the newest first.

        The updates of those that did join a sum of exactly these sites, without another charge.
        With shared noise they join none: nobody is bound.
        """
        if self.shared_noise and kind is not RoundKind.EVALUATE:
            return []
        asked = [frozenset(a.survivors) for a in self._of(kind) if a.survivors]
        return list(dict.fromkeys(reversed(asked)))

    def _turn(self, kind: RoundKind) -> int:
        """How many attempts of this kind have failed since sites were last asked to sign."""
        since = 0
        for attempt in reversed(self._of(kind)):
            if attempt.survivors:
                break
            since += not attempt.interrupted
        return since

    def _of(self, kind: RoundKind) -> list[AttemptRow]:
        return [a for a in self._tried if a.round.kind is kind]
