"""What a site's machine is told by its own worker, and what it asks that worker to do."""

from __future__ import annotations

from dataclasses import dataclass, field

from primia.protocol.messages import Answer, Instruction, RoundId
from primia.types import Ring, SiteId


@dataclass(frozen=True)
class UpdateReady:
    """Local work is done. `vector` (uint32, shape (d,)) now belongs to the machine, which masks
    it in place; keep no other use of that array."""

    vector: Ring = field(repr=False)


@dataclass(frozen=True)
class CannotTakePart:
    """Local work failed or policy says no. `reason` is fit for a person, names no patient."""

    reason: str


@dataclass(frozen=True)
class TrainLocally:
    """Do the local work of this round, then hand in UpdateReady or CannotTakePart."""

    round: RoundId


@dataclass(frozen=True)
class KeysMade:
    """This site made keys for this attempt; it never makes keys for it, or a lower one, again."""

    round: RoundId


@dataclass(frozen=True)
class SurvivorsSigned:
    """This site signed this list: its update may be summed with these sites, and no others."""

    round: RoundId
    session: bytes
    survivors: tuple[SiteId, ...]


@dataclass(frozen=True)
class SharesRevealed:
    """This site opened self seeds of `survivors` and mask keys of `lost`, never the reverse."""

    round: RoundId
    session: bytes
    survivors: tuple[SiteId, ...]
    lost: tuple[SiteId, ...]


Record = KeysMade | SurvivorsSigned | SharesRevealed


@dataclass(frozen=True)
class Remember:
    """Make `record` durable before the next command; storing the same one twice is harmless."""

    record: Record


@dataclass(frozen=True)
class Send:
    """Send `answer` to the coordinator."""

    answer: Answer


@dataclass(frozen=True)
class Upload:
    """Stream the masked vector to the coordinator; read it, do not change it."""

    masked: Ring = field(repr=False)


@dataclass(frozen=True)
class Forget:
    """The round is over; drop this machine and what was kept for it in memory."""


Command = TrainLocally | Remember | Send | Upload | Forget
SiteEvent = Instruction | UpdateReady | CannotTakePart
