"""What the model owner and the dealer must be able to do for the wire, in plain Python.

Methods are called from many threads at once, always with an identity that was authenticated; they
raise errors of `primia.errors`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, get_args

from cryptography import x509

from primia.identity.certificate import Identity
from primia.types import Digest
from primia.wire.calls import Doorkeeper
from primia.wire.handler import Enrolment
from primia.wire.pieces import Message, Wanted

SESSION_BYTES = 16
SEED_BYTES = 32
MOST_SESSIONS = 1000  # in one batch
MOST_NOISE = 100.0  # standard deviation on a logit

Profile = Literal["lan", "wan"]


@dataclass(frozen=True)
class Terms:
    """How the model owner wants predictions made; part of what a session is bound to.

    noise: standard deviation of what the dealer adds to every logit; 0 for none.
    profile: of comparisons: "lan" for little computing, "wan" for few messages.
    """

    noise: float = 0.0
    profile: Profile = "lan"

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= MOST_NOISE:
            raise ValueError(f"noise of {self.noise}; 0 to {MOST_NOISE:g} can be added")
        if self.profile not in get_args(Profile):
            raise ValueError(f"profile {self.profile!r}, known are {', '.join(get_args(Profile))}")

    def __str__(self) -> str:
        return f"{self.profile}, noise {self.noise!r}"


@dataclass(frozen=True)
class Description:
    """What the model owner serves, as one data owner sees it.

    program: canonical text. given: digest of the masked weights. dealer: host:port.
    films_left: of the caller's query budget. most_films: in one session.
    """

    program: bytes
    given: Digest
    given_size: int
    dealer: str
    dealer_certificate: bytes
    films_left: int
    most_films: int
    terms: Terms = Terms()


@dataclass(frozen=True)
class Hello:
    """The data owner's half of the handshake; discarded: sessions begun and never accepted."""

    program: Digest
    session: bytes
    number: int
    films: int
    discarded: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Order:
    """A batch that the model owner orders for one data owner.

    fingerprint: of the one certificate that may collect the seeds. numbers: one a session.
    """

    program: bytes
    mask_seed: bytes = field(repr=False)
    data_owner: Identity
    fingerprint: str
    films: int
    numbers: tuple[int, ...]
    terms: Terms = Terms()


@dataclass(frozen=True)
class DealtSession:
    """One session, with the seed of whoever receives this."""

    session: bytes
    number: int
    seed: bytes = field(repr=False)


@dataclass(frozen=True)
class Batch:
    """Sessions that were dealt together."""

    batch: bytes
    sessions: tuple[DealtSession, ...]


@dataclass(frozen=True)
class Collected:
    """A data owner's part of a batch, and what it was dealt for."""

    program: Digest
    model: Identity
    films: int
    batch: Batch


@dataclass(frozen=True)
class Stocked:
    """How far the model owner is with its part; `batch` once it holds all of it."""

    sessions: int
    received: int
    batch: bytes | None = None


class ModelHandler(Doorkeeper, Protocol):
    """The model owner's answers to data owners."""

    def enrol(self, identity: Identity, certificate: x509.Certificate, csr: bytes) -> Enrolment:
        """Use up the invitation. The same request again: the same reply."""

    def describe(self, identity: Identity) -> Description:
        """What is served."""

    def given(self) -> Path:
        """The file of the masked weights."""

    def stock(
        self,
        identity: Identity,
        certificate: x509.Certificate,
        *,
        program: Digest,
        sessions: int,
        films: int,
        discarded: tuple[bytes, ...] = (),
    ) -> Iterator[Stocked]:
        """Let go of what is `discarded`; then have a batch dealt and keep our part of it."""

    def open_sessions(self, identity: Identity, batch: bytes, opened: dict[bytes, bytes]) -> None:
        """Check the opened sessions, by the data owner's seeds; then the others may be used."""

    def asking(
        self, identity: Identity, hello: Hello
    ) -> AbstractContextManager[Generator[Wanted, bytes, None]]:
        """Take the session out of the store, charge the budget, and give the machine to run."""


class DealerHandler(Doorkeeper, Protocol):
    """The dealer's answers."""

    def deal(
        self, identity: Identity, order: Order
    ) -> tuple[Batch, Iterator[tuple[bytes, Iterator[Message]]]]:
        """The model owner's seeds, and per session its corrections, made while they are sent."""

    def dealt(self, batch: bytes) -> None:
        """All of it was sent: the data owner may collect its part."""

    def collect(self, identity: Identity, certificate: x509.Certificate, batch: bytes) -> Collected:
        """The data owner's part, once."""
