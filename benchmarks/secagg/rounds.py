"""A whole round in memory with the product's two machines and real signatures, on a stopwatch."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from primia.identity.signing import sign, verify
from primia.protocol.coordinator import CoordinatorRound
from primia.protocol.events import (
    Abort,
    Answered,
    Command,
    Commit,
    Phase,
    RoundTerms,
    Tell,
    Tick,
    UpdateArrived,
)
from primia.protocol.messages import Answer, Instruction, Masked, RoundId, RoundKind
from primia.protocol.session import partner_statement
from primia.protocol.site import SiteRound
from primia.protocol.site_events import Send, TrainLocally, UpdateReady, Upload
from primia.secagg.layout import Layout
from primia.secagg.packing import pack
from primia.types import Digest, Ring, SiteId, sha256
from primia.wire import convert
from primia.wire.labels import ROUND_LABEL

T = TypeVar("T")

ROUND = RoundId(Digest("1" * 64), 1, 1, RoundKind.TRAIN, Digest("2" * 64))


@lru_cache(maxsize=2000)
def _key(site: SiteId) -> ec.EllipticCurvePrivateKey:
    number = int.from_bytes(hashlib.sha256(site.encode()).digest(), "big") >> 1
    return ec.derive_private_key(number, ec.SECP256R1())


def check(site: SiteId, statement: bytes, signature: bytes) -> bool:
    """Whether `signature` is that site's."""
    return verify(_key(site).public_key(), ROUND_LABEL, statement, signature)


believed = lru_cache(maxsize=None)(check)
"""The same, each signature once: for the sites that nobody times."""


@dataclass
class Stopwatch:
    """Seconds of CPU time spent inside `running`."""

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        begin = time.process_time()
        yield
        self.seconds += time.process_time() - begin


@dataclass
class Game:
    """n sites and a coordinator; the first site and the coordinator are timed.

    words: each site's plain vector, the same object for all. lost: how many sites, the last by
    name, answer nothing any more once masked vectors are asked for.
    """

    n: int
    layout: Layout
    lost: int = 0
    cipher: str = "aes-256-ctr"
    words: Ring | None = None
    site: Stopwatch = field(default_factory=Stopwatch)
    coordinator: Stopwatch = field(default_factory=Stopwatch)
    sent: list[Answer] = field(default_factory=list)
    """Answers of the first site."""
    heard: list[Instruction] = field(default_factory=list)
    """Instructions to the first site."""

    def __post_init__(self) -> None:
        self.names = tuple(SiteId(f"site-{i:04d}") for i in range(self.n))
        self.machine = CoordinatorRound(
            RoundTerms(
                round=ROUND,
                invited=self.names,
                quorum=3,
                deadline_s=100.0,
                grace_s=1.0,
                stage_timeout_s=10.0,
                layout=self.layout,
                verify=check,
                cipher=self.cipher,
            ),
            0.0,
        )
        self._now = 0.0
        self._sites = {name: self._begin(name) for name in self.names}

    def _begin(self, site: SiteId) -> SiteRound:
        return SiteRound(
            me=site,
            round=ROUND,
            layout=self.layout,
            floor=3,
            roster=self.names,
            sign=lambda statement: sign(_key(site), ROUND_LABEL, statement),
            verify=check if site == self.names[0] else believed,
            entropy=os.urandom,
            cipher=self.cipher,
        )

    def play(self, until: Phase | None = None) -> Commit | None:
        """To the end, or until the coordinator enters a phase. Raises RuntimeError on an abort."""
        todo = self._time(self.coordinator, self.machine.start)
        while True:
            for command in todo:
                if isinstance(command, Commit):
                    return command
                if isinstance(command, Abort):
                    raise RuntimeError(f"the round was aborted: {command.reason}")
            if self.machine.phase is until:
                return None
            tells = [c for c in todo if isinstance(c, Tell)]
            todo = [new for tell in tells for new in self._tell(tell)]
            if not todo:
                self._now = self.machine.next_deadline or self._now
                todo = self._time(self.coordinator, lambda: self.machine.handle(Tick(), self._now))

    def say_masked(self) -> None:
        """All sites say whom they mask among; their vectors may then come from elsewhere."""
        statement = partner_statement(self.machine.session, self.names)
        for site in self.names:
            signature = sign(_key(site), ROUND_LABEL, statement)
            answer = Masked(ROUND, self.machine.session, signature)
            self._deliver(Answered(site, answer))

    def _tell(self, tell: Tell) -> list[Command]:
        late = self.machine.phase not in (Phase.TRAINING, Phase.KEYS, Phase.SHARES)
        if late and tell.site in self.names[self.n - self.lost :]:
            return []
        mine = tell.site == self.names[0]
        watch = self.site if mine else Stopwatch()
        site = self._sites[tell.site]
        commands: list[Command] = []
        queue = self._time(watch, partial(site.handle, tell.instruction))
        if mine:
            self.heard.append(tell.instruction)
        for command in queue:
            match command:
                case TrainLocally():
                    ready = UpdateReady(self._vector())
                    queue += self._time(watch, partial(site.handle, ready))
                case Send(answer):
                    if mine:
                        self.sent.append(answer)
                    commands += self._deliver(Answered(tell.site, answer))
                case Upload(masked):
                    packed = self._time(watch, partial(pack, masked, self.layout))
                    commands += self._deliver(UpdateArrived(tell.site, packed, sha256(packed)))
        return commands

    def _vector(self) -> Ring:
        return np.zeros(self.layout.length, np.uint32) if self.words is None else self.words.copy()

    def _deliver(self, event: Answered | UpdateArrived) -> list[Command]:
        return self._time(self.coordinator, lambda: self.machine.handle(event, self._now))

    @staticmethod
    def _time(watch: Stopwatch, call: Callable[[], T]) -> T:
        with watch.running():
            return call()

    @property
    def bytes_up(self) -> int:
        """Of the first site's answers as messages, without its vector."""
        return sum(convert.answer_to_pb(answer).ByteSize() for answer in self.sent)

    @property
    def bytes_down(self) -> int:
        """Of the instructions to the first site as messages."""
        return sum(convert.instruction_to_pb(i).ByteSize() for i in self.heard)
