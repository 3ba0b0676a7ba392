"""The study plan: everything that decides what a site's work may reveal, in one signed file.

The lead writes YAML; `load_plan` reads it strictly. `canonical_bytes` is the one byte form that
is hashed, signed and pinned, so that two readers can never mean different plans.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from primia.config.strict import Strict, parse_yaml_file, validate
from primia.errors import ConfigError
from primia.types import Digest, SiteId, sha256, site_id

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]{0,39}$")]
Positive = Annotated[float, Field(gt=0, le=1e9)]
Seconds = Annotated[float, Field(gt=0, le=30 * 86400)]

MAX_ROWS_PER_PATIENT = 128
"""Films times views of one patient: one patient has to fit a physical batch."""

NOISE_FLOOR = 0.5
"""Below this noise multiplier a film is still picked out of 256 (design, section 5)."""


class ModelTerms(Strict):
    """Which network is trained; built from the zoo by name, never sent."""

    name: Literal["small-cnn", "resnet18-gn"]
    input_size: Annotated[int, Field(ge=28, le=512)]  # pixels, square
    channels: Literal[1, 3] = 1
    classes: Annotated[tuple[Label, ...], Field(min_length=2, max_length=32)]
    scale_norm: bool = False  # a norm after each residual sum (Klause et al. 2022); resnet18-gn
    weight_standardisation: bool = False  # of convolutions (Qiao et al. 2019); resnet18-gn
    trainable: Literal["all", "head", "bias"] = "all"  # what learns; the rest stays as built

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) != len(classes):
            raise ValueError("each class once")
        return classes

    @model_validator(mode="after")
    def _norms_fit_the_network(self) -> Self:
        for key in ("scale_norm", "weight_standardisation"):
            if getattr(self, key) and self.name != "resnet18-gn":
                raise ValueError(
                    f"{key} changes residual blocks of group-normalised convolutions, which only "
                    f"resnet18-gn has; leave it out for {self.name}"
                )
        return self


class Schedule(Strict):
    """When a round goes on without a site: one policy, four knobs."""

    deadline_s: Seconds = 3600.0  # local training, from invitation
    quorum: Annotated[int, Field(ge=3, le=1000)] = 3  # sites a round needs to commit
    grace_s: Annotated[float, Field(ge=0, le=86400)] = 60.0  # wait for the rest after quorum
    stage_timeout_s: Seconds = 60.0  # silence that ends a stage of the aggregation
    # Committed rounds in a row that an invited site may miss; then it is not waited for any more.
    max_rounds_missed: Annotated[int, Field(ge=1, le=10_000)] = 3


class Training(Strict):
    """Local work of one site in one round: Poisson-sampled DP-SGD steps."""

    patient_sampling_rate: Annotated[float, Field(gt=0, le=1)]  # a patient's chance per step
    local_steps: Annotated[int, Field(ge=1, le=100_000)]
    expected_patients: Positive  # the divisor of every noised sum: a constant, never a count
    max_films_per_patient: Annotated[int, Field(ge=1, le=64)] = 4
    augmentations: Annotated[int, Field(ge=1, le=16)] = 1  # views of a film, averaged before clip
    learning_rate: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _one_patient_fits_a_batch(self) -> Self:
        rows = self.max_films_per_patient * self.augmentations
        if rows > MAX_ROWS_PER_PATIENT:
            raise ValueError(
                f"max_films_per_patient {self.max_films_per_patient} times augmentations "
                f"{self.augmentations} is {rows}, above {MAX_ROWS_PER_PATIENT}: one patient has to "
                "fit a physical batch; lower one of the two"
            )
        return self


class PrivacyTerms(Strict):
    """How much one patient may show over the whole study (add or remove one patient)."""

    clip_norm: Positive = 1.0  # L2 norm of one patient's gradient
    # flat: over all weights together (Abadi et al. 2016); per-layer: each module its share of
    # clip_norm (McMahan et al. 2018); automatic: each patient scaled to about clip_norm
    # (Bu et al. 2022). The sensitivity is clip_norm with each, so the price is the same.
    clipping: Literal["flat", "per-layer", "automatic"] = "flat"
    delta: Annotated[float, Field(gt=0, lt=1)]
    noise_multiplier: Annotated[float, Field(ge=NOISE_FLOOR, le=1e4)] | None = None
    target_epsilon: Annotated[float, Field(gt=0, le=1e3)] | None = None
    # site: each site adds all the noise itself, and trusts nobody. distributed: each adds a share,
    # so that the sum holds noise once; at most `colluding_sites` may pool what they know with the
    # coordinator (Kairouz, Liu, Steinke, ICML 2021).
    noise: Literal["site", "distributed"] = "site"
    colluding_sites: Annotated[int, Field(ge=1, le=999)] | None = None  # default: below a third

    @model_validator(mode="after")
    def _one_given(self) -> Self:
        if self.noise_multiplier is None and self.target_epsilon is None:
            raise ValueError("give noise_multiplier, or target_epsilon to have it calibrated")
        if self.colluding_sites is not None and self.noise != "distributed":
            raise ValueError("colluding_sites belongs to noise: distributed, and only there")
        return self


class Aggregation(Strict):
    """How updates are weighed and written as integers before masking."""

    weighting: Literal["constant", "patients"] = "constant"
    max_patients: Annotated[int, Field(ge=1, le=1_000_000)] | None = None  # for patients
    wire_bits: Literal[24, 32] = 24  # one coordinate of a masked update
    encoding_bits: Annotated[int, Field(ge=8, le=30)] | None = None  # before masking; default: all
    encoding_range: Positive = 4.0  # a coordinate of an update is clipped to ± this
    rounding: Literal["nearest", "stochastic"] = "nearest"
    update_norm: Positive | None = None  # L2 norm that a site scales its update down to
    mask_cipher: Literal["aes-256-ctr", "chacha20"] = "aes-256-ctr"  # chacha20: CPUs without AES
    groups: Annotated[int, Field(ge=1, le=333)] = 1  # sums; above 1 their trimmed mean is taken

    @model_validator(mode="after")
    def _weights_bounded(self) -> Self:
        if (self.weighting == "patients") != (self.max_patients is not None):
            raise ValueError("max_patients belongs to weighting: patients, and only there")
        return self


class ServerOptimiser(Strict):
    """The step from the mean update to the next global model (Reddi et al., ICLR 2021)."""

    name: Literal["fedavg", "fedadam"] = "fedavg"
    learning_rate: Positive = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0  # fedavg only (Hsu et al. 2019)
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: Positive = 1e-3

    @model_validator(mode="after")
    def _momentum_is_read(self) -> Self:
        if self.momentum and self.name != "fedavg":
            raise ValueError("momentum belongs to fedavg; fedadam has beta1")
        return self


class Evaluation(Strict):
    """What the sites count on their validation films; it leaves only inside the masked sum."""

    histogram_bins: Annotated[int, Field(ge=16, le=1024)] = 128
    # Each site votes, under the mask, on the model it was given: no, if its AUC there is this far
    # below the best it has seen. Without a majority the study returns to the last accepted model.
    vote_tolerance: Annotated[float, Field(gt=0, lt=1)] | None = None


class StudyPlan(Strict):
    """A whole study. `privacy: none` is the one way to train without noise, and is printed."""

    study: Name
    purpose: Annotated[str, StringConstraints(max_length=500)] = ""
    model: ModelTerms
    sites: Annotated[tuple[str, ...], Field(min_length=3, max_length=1000)]
    rounds: Annotated[int, Field(ge=1, le=10_000)]
    schedule: Schedule = Schedule()
    training: Training
    privacy: PrivacyTerms | Literal["none"]
    aggregation: Aggregation = Aggregation()
    server: ServerOptimiser = ServerOptimiser()
    evaluation: Evaluation = Evaluation()

    @field_validator("sites")
    @classmethod
    def _sites_named_once(cls, sites: tuple[str, ...]) -> tuple[str, ...]:
        for name in sites:
            site_id(name)
        if len(set(sites)) != len(sites):
            raise ValueError("each site once")
        return tuple(sorted(sites))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.schedule.quorum > len(self.sites):
            raise ValueError(
                f"schedule.quorum {self.schedule.quorum} is more than the {len(self.sites)} sites"
            )
        room = self._room
        if self.update_bits > room or room < 8:
            raise ValueError(
                f"aggregation.encoding_bits {self.update_bits}: the sum over {len(self.sites)} "
                f"sites would overflow {self.aggregation.wire_bits} bits; use at most {room}, or "
                "wire_bits: 32"
            )
        self._check_groups()
        self._check_distributed()
        return self

    def _check_groups(self) -> None:
        groups = self.aggregation.groups
        if groups == 1:
            return
        if groups < 3 or self.schedule.quorum < 3 * groups or len(self.sites) > 100:
            raise ValueError(
                f"aggregation.groups {groups}: a trimmed mean takes 3 groups or more, of 3 sites "
                "or more each, of up to 100 sites; so schedule.quorum "
                f"({self.schedule.quorum}) must be {3 * groups} or more"
            )

    def _check_distributed(self) -> None:
        """With noise: distributed a round is one step of DP-SGD on the union of all sites."""
        if self.privacy == "none" or self.privacy.noise != "distributed":
            return
        wrong = [
            key
            for key, holds in {
                "training.local_steps: 1": self.training.local_steps == 1,
                "training.momentum: 0": self.training.momentum == 0,
                "aggregation.weighting: constant": self.aggregation.weighting == "constant",
                "aggregation.groups: 1": self.aggregation.groups == 1,
                "aggregation.update_norm left out": self.aggregation.update_norm is None,
                "aggregation.encoding_bits left out": self.aggregation.encoding_bits is None,
                "aggregation.encoding_range left out": self.aggregation.encoding_range
                == Aggregation().encoding_range,
            }.items()
            if not holds
        ]
        if wrong:
            raise ValueError(
                "privacy.noise: distributed makes each round one step on the union of all sites; "
                f"it needs {', '.join(wrong)}"
            )
        if not 1 <= self.colluding_sites <= self._most_colluding:
            raise ValueError(
                f"privacy.colluding_sites {self.colluding_sites}: of {self.schedule.quorum} to "
                f"{len(self.sites)} sites in a round the masks withstand {self._most_colluding}; "
                "name fewer, or raise schedule.quorum"
            )

    @property
    def _room(self) -> int:
        """Bits of one site's coordinate such that the sum over all sites keeps to the ring."""
        return self.aggregation.wire_bits - math.ceil(math.log2(len(self.sites)))

    @property
    def update_bits(self) -> int:
        """Bits of one coordinate of a site's encoded update, sign included."""
        return self.aggregation.encoding_bits or min(24, self._room)

    @property
    def colluding_sites(self) -> int:
        """Sites that may pool what they know with the coordinator; by default below a third, and
        as many as the masks of any of the plan's rounds withstand."""
        if self.privacy != "none" and self.privacy.colluding_sites is not None:
            return self.privacy.colluding_sites
        return max(1, min((len(self.sites) - 1) // 3, self._most_colluding))

    @property
    def _most_colluding(self) -> int:
        """What the masks withstand, whichever of the sites a round goes on with.

        With all of the quorum and nobody else, every list of survivors is the same. With more, a
        victim must not be opened both ways: the rule of `secagg.topology`.
        """
        sizes = range(self.schedule.quorum + 1, len(self.sites) + 1)
        return min([self.schedule.quorum - 1, *map(colluding_withstood, sizes)])

    @property
    def site_ids(self) -> tuple[SiteId, ...]:
        """The roster, sorted."""
        return tuple(SiteId(s) for s in self.sites)


def colluding_withstood(sites: int) -> int:
    """The largest c with 2t > n + c for t = floor(2n/3) + 1; above 100 sites a fifth (the ring)."""
    return 2 * (2 * sites // 3 + 1) - sites - 1 if sites <= 100 else sites // 5


def load_plan(path: Path) -> StudyPlan:
    """Read a plan from YAML. Raises ConfigError naming file, key, value and remedy."""
    return validate(StudyPlan, parse_yaml_file(path), where=str(path))


def canonical_bytes(plan: StudyPlan) -> bytes:
    """The one byte form of a plan: JSON, sorted keys, no spaces, shortest round-trip floats."""
    data = plan.model_dump(mode="json")
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def plan_from_canonical(data: bytes) -> StudyPlan:
    """Read a plan back; refuses any other byte form of it. Raises ConfigError."""
    where = "plan from the coordinator"
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise ConfigError(f"{where}: not readable; the two sides run different versions") from err
    plan = validate(StudyPlan, raw, where=where)
    if canonical_bytes(plan) != data:
        raise ConfigError(f"{where}: not in canonical form; the two sides run different versions")
    return plan


def plan_digest(plan: StudyPlan) -> Digest:
    """SHA-256 of the canonical form: the name by which a plan is pinned and approved."""
    return sha256(canonical_bytes(plan))
