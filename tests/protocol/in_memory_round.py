"""Whole rounds in memory: both machines, real signatures, a clock that is a number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from primia.errors import PeerError, PolicyRefused
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
from primia.protocol.messages import Answer, Instruction, Masked, Reveal, RoundId, RoundKind
from primia.protocol.session import partner_statement
from primia.protocol.site import SiteRound
from primia.protocol.site_events import Record, Remember, Send, TrainLocally, UpdateReady, Upload
from primia.secagg.layout import Layout, Vector
from primia.secagg.packing import Packed, pack
from primia.types import Digest, Ring, SiteId, sha256

LENGTH = 37
NAMES = ["alder", "birch", "cedar", "dogwood", "elm", "fir", "gorse", "hazel", "ivy", "juniper"]
NAMES += [f"site-{i:04d}" for i in range(len(NAMES), 1000)]


def layout_of(length: int) -> Layout:
    """A vector in 24 bits and one in 32, as in a study; `length` words together."""
    counts = max(1, length // 4)
    return Layout((Vector("update", length - counts, 24), Vector("counts", counts, 32)))


ROUND = RoundId(
    plan=Digest("a" * 64),
    number=1,
    attempt=7,
    kind=RoundKind.TRAIN,
    model=Digest("b" * 64),
)


def stream(label: str) -> Callable[[int], bytes]:
    """Repeatable entropy for a test: SHAKE-256 of a label and a call counter."""
    calls = iter(range(1_000_000))

    def entropy(count: int) -> bytes:
        return hashlib.shake_256(f"{label}/{next(calls)}".encode()).digest(count)

    return entropy


class Authority:
    """Signing keys of all sites, and the check of a signature by name."""

    def __init__(self, names: list[str]) -> None:
        self.keys = {
            SiteId(n): Ed25519PrivateKey.from_private_bytes(hashlib.sha256(n.encode()).digest())
            for n in names
        }

    def sign_as(self, site: SiteId) -> Callable[[bytes], bytes]:
        return self.keys[site].sign

    def verify(self, site: SiteId, statement: bytes, signature: bytes) -> bool:
        try:
            self.keys[site].public_key().verify(signature, statement)
        except (InvalidSignature, KeyError):
            return False
        return True


def vector_of(site: SiteId, length: int = LENGTH) -> Ring:
    """A site's plain words, different for every site, using all 32 bits."""
    return np.frombuffer(stream(f"vector {site}")(4 * length), np.uint32).copy()


@dataclass
class Member:
    """One site: its machine, and what its worker would have stored and sent."""

    machine: SiteRound
    vector: Ring
    remembered: list[Record] = field(default_factory=list)
    sent: list[Answer] = field(default_factory=list)
    uploads: list[Ring] = field(default_factory=list)

    def instruct(self, instruction: Instruction) -> list[Answer | Ring]:
        """Carry out what the machine asks; returns what leaves for the coordinator."""
        return self._carry_out(self.machine.handle(instruction))

    def _carry_out(self, commands: list) -> list[Answer | Ring]:
        out: list[Answer | Ring] = []
        for command in commands:
            match command:
                case TrainLocally():
                    out += self._carry_out(self.machine.handle(UpdateReady(self.vector.copy())))
                case Remember(record):
                    self.remembered.append(record)
                case Send(answer):
                    self.sent.append(answer)
                    out.append(answer)
                case Upload(masked):
                    self.uploads.append(masked.copy())
                    out.append(masked)
        return out


def arrived(site: SiteId, packed: Packed) -> UpdateArrived:
    """An upload, as the transport hands it over once its digest was checked."""
    return UpdateArrived(site, packed, sha256(packed))


@dataclass
class World:
    """A coordinator and n members in one round; nothing has happened yet."""

    n: int
    quorum: int = 3
    floor: int = 3
    length: int = LENGTH
    round: RoundId = ROUND
    label: str = "world"
    vectors: Mapping[SiteId, Ring] | None = None
    groups: int = 1
    cipher: str = "aes-256-ctr"
    layout: Layout | None = None
    authority: Authority | None = None

    def __post_init__(self) -> None:
        self.names = tuple(SiteId(n) for n in NAMES[: self.n])
        self.layout = self.layout or layout_of(self.length)
        self.length = self.layout.length
        self.authority = self.authority or Authority(NAMES[: max(self.n, 10)])
        self.members = {s: self.member(s) for s in self.names}
        self.now = 0.0
        self.terms = RoundTerms(
            round=self.round,
            invited=self.names,
            quorum=self.quorum,
            deadline_s=1000.0,
            grace_s=10.0,
            stage_timeout_s=20.0,
            layout=self.layout,
            cipher=self.cipher,
            groups=self.groups,
            verify=self.authority.verify,
        )
        self.coordinator = CoordinatorRound(self.terms, self.now)

    def member(self, site: SiteId, **changes: object) -> Member:
        arguments: dict = {
            "me": site,
            "round": self.round,
            "layout": self.layout,
            "cipher": self.cipher,
            "groups": self.groups,
            "floor": self.floor,
            "roster": self.names,
            "sign": self.authority.sign_as(site),
            "verify": self.authority.verify,
            "entropy": stream(f"{self.label} {site}"),
        }
        vector = (self.vectors or {}).get(site, vector_of(site, self.length))
        return Member(SiteRound(**{**arguments, **changes}), vector)

    def minds_no_signature(self) -> None:
        """The coordinator takes whatever the sites sign, as one that lied to them has to."""
        self.coordinator.terms = replace(self.coordinator.terms, verify=lambda *_: True)

    def plain_sum(self, sites: Collection[SiteId]) -> Ring:
        """The reference: Python integers, reduced once at the end, each vector in its ring."""
        assert self.layout is not None
        bits = [v.bits for v in self.layout.vectors for _ in range(v.length)]
        columns = zip(*(self.members[s].vector.tolist() for s in sites), strict=True)
        return np.array([sum(c) % 2**b for c, b in zip(columns, bits, strict=True)], np.uint32)

    def reveal(
        self, site: SiteId, signatures: Mapping[SiteId, bytes], friends: Collection[SiteId] = ()
    ) -> Reveal:
        """What a coordinator can tell `site` at best with these signatures of survivors.

        It passes on what the neighbours signed about their mask partners; its friends sign what
        `site` wants to hear.
        """
        machine = self.members[site].machine
        assert machine._topology is not None
        session = machine._topology.session
        alive = set(machine._topology.holders(site)) & set(machine._survivors) - {site}
        masked = {
            s: answer.signature
            for s in alive
            for answer in self.members[s].sent
            if isinstance(answer, Masked)
        }
        wanted = partner_statement(session, machine._masked_among)
        masked |= {s: self.authority.sign_as(s)(wanted) for s in alive & set(friends)}
        return Reveal(self.round, session, signatures, masked)

    def deliver(self, site: SiteId, what: Answer | Ring) -> list[Command]:
        """Hand one answer or upload to the coordinator."""
        return self.coordinator.handle(self.event(site, what), self.now)

    def event(self, site: SiteId, what: Answer | Ring) -> Answered | UpdateArrived:
        """What leaves a site as the coordinator's driver hands it in; an upload goes packed."""
        assert self.layout is not None
        if isinstance(what, np.ndarray):
            return arrived(site, pack(what, self.layout))
        return Answered(site, what)

    def run(
        self,
        *,
        silent_from: Mapping[SiteId, Phase] | None = None,
        until: Phase | None = None,
        tamper: Callable[[SiteId, Instruction], Instruction] = lambda _, i: i,
    ) -> Commit | Abort | None:
        """Play the round. A site in `silent_from` answers nothing from that phase on.

        With `until`, stops (returning None) when the coordinator enters that phase; the
        instructions of that phase are then in `coordinator.instruction_for`.
        """
        commands = self.coordinator.start()
        for _ in range(10_000):
            for command in commands:
                if isinstance(command, Commit | Abort):
                    return command
            if until is not None and self.coordinator.phase is until:
                return None
            queue, commands = commands, []
            for command in queue:
                assert isinstance(command, Tell)
                if silent(self.coordinator.phase, (silent_from or {}).get(command.site)):
                    continue
                try:
                    leaving = self.members[command.site].instruct(
                        tamper(command.site, command.instruction)
                    )
                except (PeerError, PolicyRefused):
                    continue  # the site left the round; the coordinator hears nothing
                for what in leaving:
                    commands += self.deliver(command.site, what)
            if not commands:
                deadline = self.coordinator.next_deadline
                assert deadline is not None
                self.now = max(self.now, deadline)
                commands = self.coordinator.handle(Tick(), self.now)
        raise AssertionError("the round does not end")


ORDER = list(Phase)


def silent(now: Phase, since: Phase | None) -> bool:
    return since is not None and ORDER.index(now) >= ORDER.index(since)


def another_attempt(round_id: RoundId, by: int = 1) -> RoundId:
    return replace(round_id, attempt=round_id.attempt + by)
