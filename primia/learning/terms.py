"""From a study plan to what one site does in a round, and what that costs; no torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

from primia.config.plan import ModelTerms, StudyPlan
from primia.errors import ConfigError
from primia.privacy import (
    DistributedDpSgd,
    DpSgd,
    Mechanism,
    NoiseShare,
    calibrate_noise,
    epsilon,
    noise_share,
)

OnStep = Callable[[int, int], None]
"""Called after each step of local work with (steps done, steps in the round)."""


def noise_multiplier(plan: StudyPlan) -> float | None:
    """The noise of `plan`: as written, or calibrated to its target over all rounds.

    None for `privacy: none`. A pure function of the plan: coordinator and sites find the same.
    Raises ConfigError when the target cannot be reached, or contradicts the noise beside it.
    """
    if plan.privacy == "none":
        return None
    rate = plan.training.patient_sampling_rate
    steps = plan.training.local_steps * plan.rounds
    delta, target, given = (
        plan.privacy.delta,
        plan.privacy.target_epsilon,
        plan.privacy.noise_multiplier,
    )
    if given is None:
        if target is None:
            raise ConfigError("privacy: give noise_multiplier or target_epsilon")
        return calibrate_noise(rate, steps, delta, target, kind=_kind(plan))
    if target is not None:
        reached = epsilon([_kind(plan)(rate, given, steps)], delta)
        if reached > target:
            raise ConfigError(
                f"privacy.noise_multiplier {given} gives epsilon {reached:.3f} over the study, "
                f"above target_epsilon {target}; raise the noise or remove one of the two"
            )
    return given


def is_distributed(plan: StudyPlan) -> bool:
    """Whether the sites add the noise together."""
    return plan.privacy != "none" and plan.privacy.noise == "distributed"


def _kind(plan: StudyPlan) -> type[Mechanism]:
    return DistributedDpSgd if is_distributed(plan) else DpSgd


def round_mechanism(plan: StudyPlan) -> Mechanism | None:
    """What one site releases in one round; None for `privacy: none`."""
    noise = noise_multiplier(plan)
    if noise is None:
        return None
    return _kind(plan)(plan.training.patient_sampling_rate, noise, plan.training.local_steps)


def study_mechanism(plan: StudyPlan) -> Mechanism | None:
    """What one site releases over all rounds, when no round has to be trained twice."""
    noise = noise_multiplier(plan)
    if noise is None:
        return None
    steps = plan.training.local_steps * plan.rounds
    return _kind(plan)(plan.training.patient_sampling_rate, noise, steps)


def share_of_noise(plan: StudyPlan, coordinates: int) -> NoiseShare:
    """What each site adds under `noise: distributed`; `coordinates` is how many weights learn.

    Sized for the smallest sum that any site agrees to (the quorum), less the sites that may pool
    what they know: those that drop out never weaken it, and more survivors only add.
    Raises ConfigError as `noise_multiplier` and `noise_share`, ValueError for any other plan.
    """
    noise = noise_multiplier(plan)
    if plan.privacy == "none" or noise is None or not is_distributed(plan):
        raise ValueError("the plan's noise is not distributed")
    return noise_share(
        clip_norm=plan.privacy.clip_norm,
        coordinates=coordinates,
        noise_multiplier=noise,
        honest=plan.schedule.quorum - plan.colluding_sites,
    )


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """Clip and noise of one step: sensitivity `clip_norm`, noise `noise_multiplier · clip_norm`.

    clipping: how a patient's gradient is brought to `clip_norm`; the sensitivity is the same.
        flat: scaled down when longer (Abadi et al., CCS 2016). per-layer: so for each module's
        share of the norm (McMahan et al., ICLR 2018). automatic: g · clip_norm / (‖g‖ + 0.01),
        whatever its length (Bu et al., arXiv 2206.07136).
    """

    clip_norm: float
    noise_multiplier: float
    clipping: Literal["flat", "per-layer", "automatic"] = "flat"


@dataclass(frozen=True, kw_only=True)
class LocalTerms:
    """Everything that decides one site's work in one round; all of it from the signed plan."""

    model: ModelTerms
    sampling_rate: float
    local_steps: int
    expected_patients: float
    max_films_per_patient: int
    learning_rate: float
    momentum: float
    privacy: Privacy | None
    augmentations: int = 1  # views of each film, averaged with the patient's films before clipping

    @classmethod
    def of(cls, plan: StudyPlan) -> Self:
        """The terms of `plan`. Raises ConfigError as `noise_multiplier` does."""
        noise = noise_multiplier(plan)
        privacy = None
        if plan.privacy != "none" and noise is not None:
            privacy = Privacy(
                clip_norm=plan.privacy.clip_norm,
                noise_multiplier=noise,
                clipping=plan.privacy.clipping,
            )
        return cls(
            model=plan.model,
            sampling_rate=plan.training.patient_sampling_rate,
            local_steps=plan.training.local_steps,
            expected_patients=plan.training.expected_patients,
            max_films_per_patient=plan.training.max_films_per_patient,
            learning_rate=plan.training.learning_rate,
            momentum=plan.training.momentum,
            privacy=privacy,
            augmentations=plan.training.augmentations,
        )
