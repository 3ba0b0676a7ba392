"""What happens to a round, and what the coordinator's machine asks its driver to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from primia.protocol.messages import Answer, Instruction, RoundId
from primia.protocol.session import SMALLEST_COHORT
from primia.types import Ring, SiteId

Verify = Callable[[SiteId, bytes, bytes], bool]
"""(site, statement, signature) → whether the key in that site's certificate signed it."""


class Phase(StrEnum):
    """Where a round stands; the last two are final."""

    TRAINING = "training"
    KEYS = "keys"
    SHARES = "shares"
    MASKED_UPDATE = "masked update"
    SURVIVORS = "survivors"
    UNMASKING = "unmasking"
    DONE = "done"
    ABORTED = "aborted"


@dataclass(frozen=True, kw_only=True)
class RoundTerms:
    """What is fixed before a round begins. Times are seconds on the driver's clock.

    deadline_s: local training ends; it also bounds every later stage as a whole.
    grace_s: wait for the rest once `quorum` sites are ready.
    stage_timeout_s: silence that ends a stage after training.
    vector_length: coordinates of the one masked vector.
    """

    round: RoundId
    invited: tuple[SiteId, ...]
    quorum: int
    deadline_s: float
    grace_s: float
    stage_timeout_s: float
    vector_length: int
    verify: Verify = field(repr=False)

    def __post_init__(self) -> None:
        if len(set(self.invited)) != len(self.invited):
            raise ValueError("invited: each site once")
        if not SMALLEST_COHORT <= self.quorum <= len(self.invited):
            raise ValueError(
                f"quorum {self.quorum} of {len(self.invited)} sites: need at least "
                f"{SMALLEST_COHORT} and at most all of them"
            )
        if self.vector_length < 1 or not min(self.deadline_s, self.stage_timeout_s) > 0:
            raise ValueError("vector_length, deadline_s and stage_timeout_s must be above 0")


# --- events ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answered:
    """`answer` came from `site`; the transport read the name from the certificate."""

    site: SiteId
    answer: Answer


@dataclass(frozen=True)
class UpdateArrived:
    """A whole masked vector is here and its digest was checked; uint32, shape (d,)."""

    site: SiteId
    masked: Ring = field(repr=False)


@dataclass(frozen=True)
class Progress:
    """Bytes of a site's upload are flowing; the stage is not silent."""

    site: SiteId


@dataclass(frozen=True)
class SiteLost:
    """The site was struck from the roster; it is not waited for any more."""

    site: SiteId


@dataclass(frozen=True)
class Tick:
    """Nothing but time has passed."""


Event = Answered | UpdateArrived | Progress | SiteLost | Tick


# --- commands ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tell:
    """Hand `instruction` to `site` when it next asks."""

    site: SiteId
    instruction: Instruction


@dataclass(frozen=True)
class Commit:
    """The plain sum over exactly `contributors`, modulo 2^32; make it durable, then go on."""

    total: Ring = field(repr=False)
    contributors: tuple[SiteId, ...]


@dataclass(frozen=True)
class Abort:
    """Nothing was released; `missing` are the sites that were waited for in vain."""

    reason: str
    missing: tuple[SiteId, ...]


Command = Tell | Commit | Abort


@dataclass(frozen=True)
class Dropped:
    """A site that fell out of the round, in which phase, and why in a few words."""

    site: SiteId
    phase: Phase
    reason: str
