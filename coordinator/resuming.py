"""An attempt whose vectors are summed outlives the process (see `primia.protocol.carried`).

The blobs of the masked sums are durable before the row that names them, and that row before any
site hears that it should sign.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import structlog

from coordinator.rows import AttemptRow
from coordinator.state import CoordinatorState
from primia.errors import StateError
from primia.protocol.carried import FROM, from_json
from primia.protocol.coordinator import CoordinatorRound
from primia.protocol.events import Phase, RoundTerms
from primia.protocol.messages import RoundId
from primia.storage.blobs import Blobs
from primia.types import Digest, Ring, SiteId

log = structlog.get_logger()


def carry(machine: CoordinatorRound, blobs: Blobs) -> tuple[str, tuple[Digest, ...] | None] | None:
    """What `resume` needs of a machine that has just entered a phase, for the attempt's row.

    The blobs of the sums are durable on return; None in their place: they are those of before.
    """
    if machine.phase not in FROM:
        return None
    first = machine.phase is Phase.SURVIVORS
    sums = tuple(blobs.put(total.data) for total in machine.masked_sums) if first else None
    return machine.carried.to_json(), sums


def resume(
    row: AttemptRow,
    terms: Callable[[RoundId, tuple[SiteId, ...]], RoundTerms],
    blobs: Blobs,
    now: float,
) -> CoordinatorRound | None:
    """The machine of an open attempt; None when its vectors were not summed, or are damaged."""
    if row.carried is None:
        return None
    try:
        carried = from_json(row.carried, row.round)
        sums = tuple(_sum(blobs, digest) for digest in row.sums)
    except StateError as err:
        log.error("attempt_not_resumed", attempt=row.round.attempt, reason=str(err))
        return None
    return CoordinatorRound.resume(terms(row.round, carried.invited), carried, sums, now)


def sweep(state: CoordinatorState, blobs: Blobs) -> None:
    """Delete blobs that no row names: sums of attempts that ended, models never committed.

    One that cannot be deleted stays until the next time; it is in nobody's way.
    """
    used = state.blobs_in_use()
    try:
        for digest in list(blobs):
            if digest not in used:
                blobs.remove(digest)
    except StateError as err:
        log.warning("blobs_not_swept", reason=str(err))


def _sum(blobs: Blobs, digest: Digest) -> Ring:
    """Writable: it is unmasked in place."""
    return np.frombuffer(bytearray(blobs.get(digest)), dtype="<u4")
