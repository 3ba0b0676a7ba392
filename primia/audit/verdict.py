"""From canaries' scores and conditions to a verdict on a claimed ε, the same for every audit.

A claim that is met is refuted with probability 2 Φ(-z) at most: Φ(-z) by the Gaussian fit, and
Φ(-z) by the rank bound and all conditions together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from primia.audit.bounds import Coins, Scores, error_rate, fit_gaussian, rank_bound
from primia.audit.checks import Check
from primia.findings import Figure, Table, Verdict

GUESSED = 10  # one in so many canaries is guessed in or out; fixed before looking
FAR_DELTA = 1e-9
"""Where the rank bound is taken: it gives twice δ away for each canary. Who claims (ε, δ) by this
accountant claims its ε there, too."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What an audit saw. scores: how far each canary is seen; None when a sum did not come out.

    claimed: ε at `delta` of what was played; claimed_far: at `FAR_DELTA`. played: in words.
    """

    scores: Scores | None
    included: Coins
    claimed: float
    claimed_far: float
    delta: float
    conditions: Sequence[Check]
    played: str


class Judgement:
    """The bounds on ε at z deviations, and which conditions are broken."""

    def __init__(self, evidence: Evidence, z: float) -> None:
        self._of, self._z = evidence, z
        self._each = error_rate(z) / (len(evidence.conditions) + 1)
        self.mu = self.lower = self.rank = 0.0
        if evidence.scores is not None:
            fit = fit_gaussian(evidence.scores, evidence.included, z)
            self.mu, self.lower = fit.mu, fit.epsilon(evidence.delta)
            self.rank = rank_bound(
                evidence.scores,
                evidence.included,
                guesses=evidence.included.size // GUESSED,
                delta=FAR_DELTA,
                failure=self._each,
            )
        self.broken = [c for c in evidence.conditions if not self._met(c)]

    def _met(self, condition: Check) -> bool:
        return condition.chance >= self._each  # so not where it is no number

    @property
    def false_alarms(self) -> float:
        """How often a claim that holds is refuted, at most."""
        return 2 * error_rate(self._z)

    @property
    def over(self) -> bool:
        """Whether more is shown than was claimed."""
        return self.lower > self._of.claimed or self.rank > self._of.claimed_far

    @property
    def verdict(self) -> Verdict:
        return Verdict.REFUTED if self.over or self.broken else Verdict.NOT_REFUTED

    @property
    def answer(self) -> str:
        of = self._of
        said = f"ε is at least {self.lower:.2f} over {of.played}, claimed {of.claimed:.2f}"
        if self.over:
            said += ": more is shown than was claimed"
        if not self.broken:
            canaries = of.included.size
            return f"{said}; {canaries} canaries, and no condition of the price was found broken"
        first, more = self.broken[0], len(self.broken) - 1
        others = f" and {more} more" if more else ""
        return f"{said}; broken: {first.name}{others} (claimed {first.claim}, seen {first.seen})"

    def figures(self) -> dict[str, Figure]:
        """For scripts."""
        of = self._of
        return {
            "epsilon_claimed": of.claimed,
            "epsilon_gaussian_lower": self.lower,
            "epsilon_rank_claimed": of.claimed_far,
            "epsilon_rank_lower": self.rank,
            "mu_estimate": self.mu,
            "delta": of.delta,
            "canaries": int(of.included.size),
            "z": self._z,
            "false_alarm_rate": self.false_alarms,
            "conditions": len(of.conditions),
            "conditions_broken": len(self.broken),
        }

    def tables(self) -> tuple[Table, Table]:
        """The bounds beside the claim, and each condition with what was seen of it."""
        of = self._of
        bounds = (
            (f"δ = {of.delta:g}", self.lower, of.claimed, f"Gaussian fit, z = {self._z:g}"),
            (f"δ = {FAR_DELTA:g}", self.rank, of.claimed_far, "ranks alone"),
        )
        return (
            Table(
                (f"ε over {of.played}", "at least", "claimed", "rests on"),
                tuple((at, f"{low:.3f}", f"{said:.3f}", by) for at, low, said, by in bounds),
            ),
            Table(
                ("condition", "claimed", "seen", ""),
                tuple(
                    (c.name, c.claim, c.seen, "met" if self._met(c) else "broken")
                    for c in of.conditions
                ),
            ),
        )
