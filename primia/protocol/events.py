"""What happens to a round, and what the coordinator's machine asks its driver to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from primia.protocol.messages import Answer, Instruction, RoundId
from primia.protocol.session import SMALLEST_COHORT
from primia.secagg.layout import Layout
from primia.secagg.packing import Packed
from primia.types import Digest, Ring, SiteId

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
    layout: the vectors that each site sends, side by side.
    cipher: what expands the masks. groups: how many sums are made, each of 3 sites or more.
    threads: that may work on the masks at the end.
    promised: lists of sites that were asked to sign for each other in earlier attempts at this
    round: those that did mask among these only, and a part of them is never asked to sign.
    """

    round: RoundId
    invited: tuple[SiteId, ...]
    quorum: int
    deadline_s: float
    grace_s: float
    stage_timeout_s: float
    layout: Layout
    cipher: str = "aes-256-ctr"
    groups: int = 1
    threads: int = 1
    promised: frozenset[frozenset[SiteId]] = frozenset()
    verify: Verify = field(repr=False)

    def __post_init__(self) -> None:
        if len(set(self.invited)) != len(self.invited):
            raise ValueError("invited: each site once")
        if not SMALLEST_COHORT <= self.quorum <= len(self.invited):
            raise ValueError(
                f"quorum {self.quorum} of {len(self.invited)} sites: need at least "
                f"{SMALLEST_COHORT} and at most all of them"
            )
        if not min(self.deadline_s, self.stage_timeout_s) > 0:
            raise ValueError("deadline_s and stage_timeout_s must be above 0")
        if self.groups < 1 or len(self.invited) < self.groups * SMALLEST_COHORT:
            raise ValueError(
                f"{self.groups} groups of {len(self.invited)} sites: each needs {SMALLEST_COHORT}"
            )


# --- events ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answered:
    """`answer` came from `site`; the transport read the name from the certificate."""

    site: SiteId
    answer: Answer


@dataclass(frozen=True)
class UpdateArrived:
    """All of a site's masked vectors are here, packed, and their SHA-256 was checked.

    packed: bytes of any buffer, as `secagg.packing` writes them; read once, never kept.
    digest: that SHA-256; a repeat is known by it.
    """

    site: SiteId
    packed: Packed = field(repr=False)
    digest: Digest


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
    """The plain sum of each group, in the rings of the layout; make them durable, then go on.

    groups: whose vectors are in which sum, sorted; together they are `contributors`.
    """

    totals: tuple[Ring, ...] = field(repr=False)
    groups: tuple[tuple[SiteId, ...], ...]
    contributors: tuple[SiteId, ...]


@dataclass(frozen=True)
class Abort:
    """Nothing was released; `missing` are the sites that were waited for in vain."""

    reason: str
    missing: tuple[SiteId, ...]


Command = Tell | Commit | Abort


class Loss(StrEnum):
    """The kinds of ways to fall out of a round."""

    LATE = "late"
    DECLINED = "declined"
    STRUCK = "struck"
    WRONG_SHARE = "wrong-share"
    ENDED = "round-ended"  # for all, before this site had answered


@dataclass(frozen=True)
class Dropped:
    """A site that fell out of the round, in which phase, and why in a few words."""

    site: SiteId
    phase: Phase
    reason: str
    code: Loss
