"""From a plan as written to a plan as signed: its noise is a number, and its price is known.

A plan may name a target ε instead of a noise multiplier. Before it is signed the noise is
calibrated once; what is signed, pinned and recomputed by each site is that number.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from primia.config.plan import StudyPlan, plan_digest
from primia.errors import ConfigError
from primia.learning.terms import is_distributed, noise_multiplier, study_mechanism
from primia.privacy.accounting import epsilon, epsilon_gdp, epsilon_rdp
from primia.types import Digest


@dataclass(frozen=True)
class PriceRow:
    """ε after so many rounds; `epsilon_gdp` is a comparison with papers, not a bound."""

    rounds: int
    steps: int
    epsilon: float
    epsilon_rdp: float
    epsilon_gdp: float


@dataclass(frozen=True)
class Price:
    """What a plan costs one patient at one site; the last row is the whole study.

    decides: the accountant that `epsilon` comes from; for shared noise it is RDP.
    """

    decides: Literal["PLD", "RDP"]
    noise_multiplier: float
    sampling_rate: float
    delta: float
    rows: tuple[PriceRow, ...]

    @property
    def epsilon(self) -> float:
        """The whole study's ε."""
        return self.rows[-1].epsilon

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "epsilon": self.epsilon}


def settle(plan: StudyPlan) -> StudyPlan:
    """`plan` with its noise, and how many may collude, as numbers.

    Raises ConfigError as `noise_multiplier` does.
    """
    if plan.privacy == "none":
        return plan
    noise = noise_multiplier(plan)
    found: dict[str, float | int | None] = {"noise_multiplier": noise}
    if is_distributed(plan):
        found["colluding_sites"] = plan.colluding_sites
    privacy = plan.privacy.model_copy(update=found)
    return plan.model_copy(update={"privacy": privacy})


def settled_digest(plan: StudyPlan) -> Digest:
    """The digest by which `plan` goes once it is signed. Raises ConfigError as `settle`."""
    return plan_digest(settle(plan))


def price_plan(plan: StudyPlan) -> Price:
    """Price a plan at some round counts up to the whole. ConfigError for `privacy: none`."""
    whole = study_mechanism(plan)
    if plan.privacy == "none" or whole is None:
        raise ConfigError("privacy: none has no price; there is no bound on what a patient shows")
    delta = plan.privacy.delta
    marks = sorted({max(1, plan.rounds * i // 6) for i in range(1, 7)})
    rows = []
    for rounds in marks:
        run = [replace(whole, steps=rounds * plan.training.local_steps)]
        rows.append(
            PriceRow(
                rounds=rounds,
                steps=run[0].steps,
                epsilon=epsilon(run, delta),
                epsilon_rdp=epsilon_rdp(run, delta),
                epsilon_gdp=epsilon_gdp(run, delta),
            )
        )
    decides: Literal["PLD", "RDP"] = "RDP" if is_distributed(plan) else "PLD"
    return Price(decides, whole.noise_multiplier, whole.sampling_rate, delta, tuple(rows))
