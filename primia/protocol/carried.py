"""What of an attempt outlives the coordinator's process, once all vectors are summed.

From then on sites sign whom their update was summed with, and join no other sum: an attempt that
died with the process would cost each of them another charge. Before, nobody has promised anything,
and a new attempt with the stored updates is as good as the old one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from primia.errors import StateError
from primia.protocol.events import Dropped, Loss, Phase
from primia.protocol.messages import KeyAdvert, RoundId
from primia.types import Digest, SiteId

FROM = (Phase.SURVIVORS, Phase.UNMASKING)
"""The phases that are carried over; what the sites answered in them, they are asked for again."""


@dataclass(frozen=True)
class Carried:
    """All but the masked sums, which do not change in these phases.

    masked: what each of `masked_among` that came so far signed about its mask partners.
    uploads: SHA-256 of the vectors in the sums, by contributor.
    signatures: for the survivors, by those who are to open; empty in the phase SURVIVORS.
    """

    phase: Phase
    invited: tuple[SiteId, ...]
    cohort: tuple[SiteId, ...]
    adverts: tuple[KeyAdvert, ...]
    masked_among: tuple[SiteId, ...]
    masked: Mapping[SiteId, bytes]
    uploads: Mapping[SiteId, Digest]
    signatures: Mapping[SiteId, bytes]
    dropped: tuple[Dropped, ...]

    def to_json(self) -> str:
        """As text for a database; the round's name is kept beside it."""
        data = {
            "phase": self.phase.value,
            "invited": self.invited,
            "cohort": self.cohort,
            "adverts": [
                [a.site, *(k.hex() for k in (a.mask_key, a.seal_key, a.seed_commitment)),
                 a.signature.hex()]
                for a in self.adverts
            ],
            "masked_among": self.masked_among,
            "masked": {s: m.hex() for s, m in self.masked.items()},
            "uploads": dict(self.uploads),
            "signatures": {s: m.hex() for s, m in self.signatures.items()},
            "dropped": [[d.site, d.phase.value, d.reason, d.code.value] for d in self.dropped],
        }  # fmt: skip
        return json.dumps(data, separators=(",", ":"))


def from_json(text: str, round_id: RoundId) -> Carried:
    """Read `Carried.to_json` back. Raises StateError when it is not readable."""
    try:
        return _read(json.loads(text), round_id)
    except (KeyError, TypeError, ValueError) as err:
        raise StateError(
            f"attempt {round_id.attempt} of round {round_id.number} cannot be read back ({err}); "
            "restore the coordinator's folder from a backup"
        ) from err


def _read(data: Any, round_id: RoundId) -> Carried:
    return Carried(
        phase=Phase(data["phase"]),
        invited=tuple(data["invited"]),
        cohort=tuple(data["cohort"]),
        adverts=tuple(
            KeyAdvert(round_id, SiteId(site), *(bytes.fromhex(part) for part in parts))
            for site, *parts in data["adverts"]
        ),
        masked_among=tuple(data["masked_among"]),
        masked={SiteId(s): bytes.fromhex(m) for s, m in data["masked"].items()},
        uploads={SiteId(s): Digest(d) for s, d in data["uploads"].items()},
        signatures={SiteId(s): bytes.fromhex(m) for s, m in data["signatures"].items()},
        dropped=tuple(Dropped(SiteId(s), Phase(p), r, Loss(c)) for s, p, r, c in data["dropped"]),
    )
