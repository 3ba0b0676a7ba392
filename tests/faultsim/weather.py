"""How bad it gets: the odds of every fault, drawn once for a history."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass
class Weather:
    """Odds and mean times (simulated seconds) between faults; 0 is never. `calm` ends them all."""

    drop: float = 0.0  # of a message, each way
    duplicate: float = 0.0
    straggle: float = 0.0  # of a message that takes up to `longest_delay_s`
    longest_delay_s: float = 0.0
    latency_s: float = 0.05  # the most that any other message takes
    crash_at_message: float = 0.0  # of a message, at either end, just after it arrived
    crash_at_disk: float = 0.0  # of one disk operation that changes something
    error_at_disk: float = 0.0
    slow_at_disk: float = 0.0
    power_loss: float = 0.0  # of a crash that loses what was not synced
    kill_every_s: float = 0.0
    stop_every_s: float = 0.0  # SIGTERM
    pause_every_s: float = 0.0  # SIGSTOP
    partition_every_s: float = 0.0
    full_every_s: float = 0.0
    slow_training: float = 0.0  # of training that passes the deadline
    coordinator_crash: float = 1.0  # how much oftener the coordinator dies than a site
    stormy: bool = True

    def calm(self) -> None:
        """From now on nothing breaks any more."""
        for name in self.__dataclass_fields__:
            setattr(self, name, 0.0)
        self.stormy, self.latency_s = False, 0.05

    def dies_at_disk(self, rng: Random, who: str, *, changed: bool) -> bool:
        """After reading nothing is different: that crash is one like any other time."""
        odds = self.crash_at_disk * (1.0 if changed else 0.02)
        odds *= self.coordinator_crash if who == "coordinator" else 1.0
        return odds > 0 and rng.random() < odds

    def fails_at_disk(self, rng: Random) -> bool:
        return self.error_at_disk > 0 and rng.random() < self.error_at_disk

    def slow_disk(self, rng: Random) -> float:
        """Seconds that this operation takes."""
        if self.slow_at_disk > 0 and rng.random() < self.slow_at_disk:
            return rng.uniform(0.1, 10.0)
        return 0.0


def until_restarted_s(rng: Random) -> float:
    """Somebody, or systemd, starts a daemon again."""
    return rng.uniform(0.2, 3.0) if rng.random() < 0.7 else rng.uniform(3.0, 60.0)


def drawn(rng: Random) -> Weather:
    """A weather of its own for each history: most have a few faults of several kinds, some many."""

    def odds(most: float, chance: float = 0.5) -> float:
        return most * rng.random() ** 2 if rng.random() < chance else 0.0

    def every(least: float, most: float, chance: float = 0.4) -> float:
        return rng.uniform(least, most) if rng.random() < chance else 0.0

    return Weather(
        drop=odds(0.1, 0.6),
        duplicate=odds(0.3),
        straggle=odds(0.1),
        longest_delay_s=rng.uniform(1.0, 60.0),
        latency_s=rng.choice([0.05, 0.05, 1.0, 5.0]),
        crash_at_message=odds(0.01, 0.6),
        crash_at_disk=odds(0.008, 0.7),
        error_at_disk=odds(0.005, 0.3),
        slow_at_disk=odds(0.05, 0.3),
        power_loss=rng.choice([0.0, 0.5, 1.0]),
        kill_every_s=every(20.0, 200.0, 0.6),
        stop_every_s=every(40.0, 300.0, 0.3),
        pause_every_s=every(40.0, 300.0),
        partition_every_s=every(40.0, 300.0),
        full_every_s=every(60.0, 400.0, 0.25),
        slow_training=odds(0.2, 0.4),
        coordinator_crash=rng.choice([1.0, 1.0, 3.0, 0.0]),
    )
