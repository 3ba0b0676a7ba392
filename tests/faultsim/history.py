"""One history: a study of a few rounds, among a few sites, in one weather, from one seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from primia.types import SiteId
from tests.faultsim.centre import Centre
from tests.faultsim.contract import Contract
from tests.faultsim.hospital import Hospital
from tests.faultsim.network import Network, SimLink
from tests.faultsim.study import study
from tests.faultsim.weather import Weather, drawn
from tests.faultsim.world import World

LONGEST_STORM_S = 600.0  # faults go on until some round is committed, or for so long
CALM_S = 3600.0  # within which a study finishes once they have stopped


@dataclass(frozen=True)
class History:
    """What came of a seed."""

    seed: str
    findings: tuple[str, ...]
    trace: tuple[str, ...]
    trace_hash: str
    injected: Counter[str]
    counted: Counter[str]
    simulated_s: float


def run(seed: str, weather: Weather | None = None) -> History:
    """Live through it. `weather` in place of the one that the seed draws."""
    world = World(seed)
    rng = world.rng("history")
    sites = rng.randint(3, 5)
    plan = study(sites, rng.randint(3, sites), rng.randint(2, 5))
    weather = weather or drawn(world.rng("weather"))
    contract = Contract(world, plan)

    def kill(who: SiteId | None) -> None:
        (centre if who is None else hospitals[who]).kill()

    network = Network(world, weather, kill)
    centre = Centre(world, weather, plan, lambda: contract.look(centre))

    def link(hospital: Hospital) -> SimLink:
        return SimLink(world, network, centre, contract, hospital.site)

    quiet = Weather(stormy=False)
    hospitals = {s: Hospital(world, weather, plan, s, link) for s in plan.plan.site_ids}
    contract.hospitals = hospitals
    for party in (centre, *hospitals.values()):
        party.disk.use(quiet)
    centre.initialise()
    for hospital in hospitals.values():
        hospital.enrol()
    for party in (centre, *hospitals.values()):
        party.disk.use(weather)
        world.at(rng.uniform(0, 10), party.start)
    rounds = rng.randint(1, plan.plan.rounds + 1)
    storm = _Storm(world, weather, network, centre, hospitals)
    storm.begin()
    world.run(
        lambda: world.counted["rounds"] >= rounds or _over(centre, hospitals), LONGEST_STORM_S
    )
    storm.end()
    finished = world.run(lambda: _over(centre, hospitals), world.now + CALM_S)
    if not finished and not world.findings:
        world.find(f"liveness: not finished {CALM_S:.0f} s after the last fault")
    for hospital in hospitals.values():
        hospital.discard()
    for party in (centre, *hospitals.values()):
        party.disk.use(quiet)
        party.disk.full_until = 0.0
        party.disk.close()
        party.disk.revive()
    if not world.findings:
        contract.check_end(centre, finished=finished)
    return History(
        seed,
        tuple(world.findings),
        tuple(world.trace),
        world.trace_hash,
        world.injected,
        world.counted,
        world.now,
    )


def _over(centre: Centre, hospitals: dict[SiteId, Hospital]) -> bool:
    """All have heard of it, or had the time to."""
    if centre.over_since is None:
        return False
    return all(h.done for h in hospitals.values()) or (centre.world.now > centre.over_since + 60.0)


@dataclass
class _Storm:
    """What befalls the parties from outside, until it is over."""

    world: World
    weather: Weather
    network: Network
    centre: Centre
    hospitals: dict[SiteId, Hospital]

    def begin(self) -> None:
        self._rng = self.world.rng("storm")
        for mean_s, strike in (
            (self.weather.kill_every_s, self._kill),
            (self.weather.stop_every_s, self._stop),
            (self.weather.pause_every_s, self._pause),
            (self.weather.partition_every_s, self._partition),
            (self.weather.full_every_s, self._fill),
        ):
            if mean_s:
                self._repeat(mean_s, strike)

    def _repeat(self, mean_s: float, strike) -> None:  # type: ignore[no-untyped-def]
        def struck() -> None:
            if self.weather.stormy:
                strike()
                self._repeat(mean_s, strike)

        self.world.after(self._rng.expovariate(1 / mean_s), struck)

    def end(self) -> None:
        """Nothing breaks any more."""
        self.world.say("weather", "calm from now on")
        self.weather.calm()
        self.centre.calm_since = self.world.now
        self.network.cut_until.clear()
        for party in (self.centre, *self.hospitals.values()):
            party.disk.full_until = 0.0

    def _any(self) -> Centre | Hospital:
        return self._rng.choice([self.centre, *self.hospitals.values()])

    def _kill(self) -> None:
        self._any().kill()

    def _stop(self) -> None:
        hospital = self._rng.choice(list(self.hospitals.values()))
        self.world.inject("SIGTERM", hospital.site)
        hospital.terminate()

    def _pause(self) -> None:
        party, seconds = self._any(), self._rng.uniform(5.0, 120.0)
        self.world.inject("SIGSTOP", getattr(party, "site", "coordinator"), f"{seconds:.0f} s")
        party.pause(seconds)

    def _partition(self) -> None:
        seconds = self._rng.uniform(5.0, 150.0)
        names = sorted(self.hospitals)
        for site in self._rng.sample(names, self._rng.randint(1, len(names))):
            self.world.inject("partition", site, f"{seconds:.0f} s")
            self.network.cut_until[site] = self.world.now + seconds

    def _fill(self) -> None:
        party, seconds = self._any(), self._rng.uniform(5.0, 60.0)
        self.world.inject("disk fills up", getattr(party, "site", "coordinator"))
        party.disk.full_until = self.world.now + seconds
