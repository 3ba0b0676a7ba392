"""Messages that come late, twice, out of order or not at all; and a site's link over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

from primia.errors import PrimiaError, Unreachable
from primia.identity.heads import Countersigned, SignedHeads
from primia.protocol.messages import Answer
from primia.types import Digest, SiteId
from primia.wire.handler import POLL_S, Attendance, StudyBundle, UploadKey
from tests.faultsim.weather import Weather
from tests.faultsim.world import World, this_task

CALL_S = 30.0
T = TypeVar("T")
Result = tuple[bool, Any]  # whether it went well; what came of it, or the error
Respond = Callable[[Result], None]


class Server(Protocol):
    """The coordinator as messages reach it. `respond` is called once, now or later, or never."""

    def attend(self, site: SiteId, after: int, respond: Respond) -> None: ...
    def call(self, site: SiteId, what: str, arguments: tuple[Any, ...], respond: Respond) -> None:
        """Any other call."""


class Observer(Protocol):
    """Sees what leaves a site, before the network does anything to it."""

    def answered(self, site: SiteId, answer: Answer) -> None: ...
    def uploaded(self, site: SiteId, key: UploadKey, masked: bytes) -> None: ...
    def told(self, site: SiteId, news: Attendance) -> None: ...


@dataclass
class Network:
    """Between each site and the coordinator."""

    world: World
    weather: Weather
    kill: Callable[[SiteId | None], None]  # that site's process, or the coordinator's
    cut_until: dict[SiteId, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = self.world.rng("network")

    def carry(self, site: SiteId, what: str, deliver: Callable[[], None]) -> None:
        """One message; `deliver` is called for every copy that arrives."""
        rng, weather = self._rng, self.weather
        if self.world.now < self.cut_until.get(site, 0.0):
            self.world.injected["message lost in a partition"] += 1
            return
        copies = 1
        if weather.drop and rng.random() < weather.drop:
            self.world.inject("message dropped", site, what)
            copies = 0
        elif weather.duplicate and rng.random() < weather.duplicate:
            self.world.inject("message duplicated", site, what)
            copies = 2
        for _ in range(copies):
            delay = rng.uniform(0.001, weather.latency_s)
            if weather.straggle and rng.random() < weather.straggle:
                delay = rng.uniform(0.05, weather.longest_delay_s)
                self.world.inject("message delayed", site, f"{what} by {delay:.1f} s")
            self.world.after(delay, deliver)
            if weather.crash_at_message and rng.random() < weather.crash_at_message:
                victim = rng.choice([site, None])
                self.world.after(delay + rng.choice([0.0, 0.03]), lambda v=victim: self._strike(v))

    def _strike(self, victim: SiteId | None) -> None:
        if self.weather.stormy:
            self.world.injected["crash at a message"] += 1
            self.kill(victim)


class SimLink:
    """A site's calls, as `worker.link.Link` wants them. It belongs to one process."""

    def __init__(
        self, world: World, network: Network, server: Server, observer: Observer, site: SiteId
    ) -> None:
        self._world, self._network, self._server = world, network, server
        self._observer, self._site = observer, site

    def get_study(self) -> StudyBundle:
        return cast(StudyBundle, self._ask("get_study", ()))

    def attend(self, after: int) -> Attendance:
        def ask(respond: Respond) -> None:
            self._server.attend(self._site, after, respond)

        news = cast(Attendance, self._over_network("attend", ask, POLL_S + CALL_S))
        self._observer.told(self._site, news)
        return news

    def answer(self, answer: Answer) -> None:
        self._observer.answered(self._site, answer)
        self._ask(type(answer).__name__, (answer,))

    def fetch_model(self, digest: Digest, *, max_bytes: int) -> bytes:
        data = cast(bytes, self._ask("fetch_model", (digest,)))
        assert len(data) <= max_bytes
        return data

    def upload(self, key: UploadKey, data: bytes | bytearray | memoryview) -> None:
        masked = bytes(data)
        self._observer.uploaded(self._site, key, masked)
        self._ask("upload", (key, masked))

    def last_heads(self, seen: Countersigned | None) -> SignedHeads | None:
        return cast("SignedHeads | None", self._ask("last_heads", (seen,)))

    def countersign(self, heads: SignedHeads, seen: Countersigned | None) -> Countersigned:
        return cast(Countersigned, self._ask("countersign", (heads, seen)))

    def _ask(self, what: str, arguments: tuple[Any, ...]) -> Any:
        def ask(respond: Respond) -> None:
            self._server.call(self._site, what, arguments, respond)

        return self._over_network(what, ask, CALL_S)

    def _over_network(self, what: str, ask: Callable[[Respond], None], patience_s: float) -> Any:
        task = this_task()
        assert task is not None
        ticket, got = task.ticket(), list[Result]()

        def arrives(result: Result) -> None:
            if not got:
                got.append(result)
                task.wake(ticket)

        def respond(result: Result) -> None:
            self._network.carry(self._site, f"reply to {what}", lambda: arrives(result))

        self._network.carry(self._site, what, lambda: ask(respond))
        task.block(patience_s)
        if not got:
            raise Unreachable("no reply in time")
        well, value = got[0]
        if well:
            return value
        assert isinstance(value, PrimiaError)
        raise type(value)(str(value))
