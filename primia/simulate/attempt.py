"""One attempt at a round in memory: both machines, real masks and signatures, a clock that jumps.

A site that drops out simply answers nothing any more. When nobody has anything left to say, the
clock goes to the next deadline, as it would by itself.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric import ec

from primia.errors import PeerError, PolicyRefused
from primia.identity.signing import sign, verify
from primia.protocol.coordinator import CoordinatorRound
from primia.protocol.events import (
    Abort,
    Answered,
    Command,
    Commit,
    Dropped,
    Event,
    Phase,
    RoundTerms,
    Tell,
    Tick,
    UpdateArrived,
)
from primia.protocol.messages import Declined, Instruction
from primia.protocol.site import SiteRound
from primia.protocol.site_events import Send, TrainLocally, UpdateReady, Upload
from primia.secagg.layout import Layout
from primia.secagg.packing import pack
from primia.types import Ring, SiteId, sha256
from primia.wire.labels import ROUND_LABEL

PHASES = (
    Phase.TRAINING,
    Phase.KEYS,
    Phase.SHARES,
    Phase.MASKED_UPDATE,
    Phase.SURVIVORS,
    Phase.UNMASKING,
)


class Keys:
    """The sites' signing keys, and the check of what they sign.

    Each signature is verified once for the whole process, where every real site verifies it for
    itself: what they would find is the same.
    """

    def __init__(self, sites: tuple[SiteId, ...]) -> None:
        self._keys = {s: ec.generate_private_key(ec.SECP256R1()) for s in sites}
        self._public = {s: key.public_key() for s, key in self._keys.items()}
        self.verify = lru_cache(maxsize=65536)(self._verify)

    def sign_as(self, site: SiteId) -> Callable[[bytes], bytes]:
        """Signs round statements as `site`."""
        return lambda statement: sign(self._keys[site], ROUND_LABEL, statement)

    def _verify(self, site: SiteId, statement: bytes, signature: bytes) -> bool:
        return verify(self._public[site], ROUND_LABEL, statement, signature)


@dataclass(frozen=True)
class Played:
    """How an attempt ended. commit: None when it aborted for `reason`.

    signers: the sites that were asked to sign that their sum be opened; they are bound to it.
    """

    commit: Commit | None
    reason: str
    ready: frozenset[SiteId]
    keys_made: bool
    signers: tuple[SiteId, ...]
    dropped: tuple[Dropped, ...]


def draw_dropouts(
    sites: tuple[SiteId, ...], probability: float, chance: random.Random
) -> dict[SiteId, Phase]:
    """Which sites fall silent in an attempt, and from which phase on; each independently."""
    return {s: chance.choice(PHASES) for s in sites if chance.random() < probability}


class Play:
    """One attempt, from the first instruction to its end."""

    def __init__(
        self,
        terms: RoundTerms,
        sites: Mapping[SiteId, SiteRound],
        vectors: Callable[[SiteId], Ring],
        silent_from: Mapping[SiteId, Phase],
    ) -> None:
        """vectors: a fresh copy of a site's vector, for its machine to mask in place."""
        self._sites, self._vectors, self._silent_from = sites, vectors, silent_from
        self._layout: Layout = terms.layout
        self._machine = CoordinatorRound(terms, 0.0)
        self._now = 0.0
        self._ready: frozenset[SiteId] = frozenset()
        self._keys_made = False
        self._signers: tuple[SiteId, ...] = ()
        self._commit: Commit | None = None
        self._reason = ""

    def run(self) -> Played:
        """Play to the end."""
        todo: deque[Tell] = deque()
        self._take(self._machine.start(), todo)
        while self._machine.phase not in (Phase.DONE, Phase.ABORTED):
            if todo:
                self._tell(todo.popleft(), todo)
            else:
                self._now = max(self._now, self._machine.next_deadline or self._now)
                self._take(self._machine.handle(Tick(), self._now), todo)
        return Played(
            self._commit,
            self._reason,
            self._ready,
            self._keys_made,
            self._signers,
            self._machine.dropped,
        )

    def _take(self, commands: list[Command], todo: deque[Tell]) -> None:
        match self._machine.phase:
            case Phase.TRAINING:
                self._ready = frozenset(self._machine.answered)
            case Phase.KEYS if commands:
                self._ready = frozenset(self._machine.waiting_for)
            case Phase.SHARES:
                self._keys_made = True
        self._signers = self._machine.contributors or self._signers
        for command in commands:
            match command:
                case Tell():
                    todo.append(command)
                case Commit():
                    self._commit = command
                case Abort(reason, _):
                    self._reason = reason

    def _tell(self, tell: Tell, todo: deque[Tell]) -> None:
        silent = self._silent_from.get(tell.site)
        phase = self._machine.phase
        if phase not in PHASES or (silent and PHASES.index(silent) <= PHASES.index(phase)):
            return
        try:
            self._obey(tell.site, tell.instruction, todo)
        except (PolicyRefused, PeerError) as err:
            answer = Declined(tell.instruction.round, str(err))
            self._deliver(Answered(tell.site, answer), todo)

    def _obey(self, site: SiteId, instruction: Instruction, todo: deque[Tell]) -> None:
        machine = self._sites[site]
        queue = deque(machine.handle(instruction))
        while queue:
            match queue.popleft():
                case TrainLocally():
                    queue.extend(machine.handle(UpdateReady(self._vectors(site))))
                case Send(answer):
                    self._deliver(Answered(site, answer), todo)
                case Upload(masked):
                    packed = pack(masked, self._layout)
                    self._deliver(UpdateArrived(site, packed, sha256(packed)), todo)

    def _deliver(self, event: Event, todo: deque[Tell]) -> None:
        if self._machine.phase in PHASES:
            self._take(self._machine.handle(event, self._now), todo)
