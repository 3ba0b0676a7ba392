"""`kill -9` of random processes over one study: `make kill-loop`.

Every round gets its share of the kills while it is open; what was killed is started again at once.
A kill waits for a phase drawn by chance, or for a moment drawn by chance. The study has to end by
itself, with rounds 1..R committed once each and the contract intact.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from primia.demo.fleet import Daemon
from tests.faults import contract
from tests.faults.ward import Ward
from tests.processes.federation import committed, plan

NAMES = ["north", "south", "east", "west", "middle"]
PHASES = ["training", "keys", "shares", "masked update", "survivors", "unmasking"]
LONGEST_WAIT_S = 12.0  # for the phase that a kill wants to hit, or a later one
LONGEST_ROUND_S = 300.0  # once its kills are over


@dataclass(frozen=True)
class Kill:
    """Who was killed, where the round stood as far as the coordinator's log said."""

    number: int
    at_s: float
    round: int
    phase: str
    victim: str


@dataclass
class Loop:
    """One study under fire. Raises AssertionError when it does not survive."""

    ward: Ward
    rounds: int
    kills: int
    dice: random.Random
    say: Callable[[str], None]
    done: list[Kill] = field(default_factory=list)
    round: int = 0
    phase: str = "away"
    committed: int = 0

    def run(self) -> None:
        """Until the study is over; then its history is checked."""
        self.began = time.monotonic()
        self._start("coordinator")
        for name in self.ward.sites:
            self._start(name)
        quiet_since = time.monotonic()
        while self.ward.coordinator.process.poll() != 0:
            self._look()
            due = self.kills * min(self.rounds, self.committed + 1) // self.rounds
            if len(self.done) < due:
                self._kill()
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > LONGEST_ROUND_S:
                raise AssertionError(f"round {self.round} stands still\n{self._logs()}")
            time.sleep(0.02)
        assert len(self.done) == self.kills, "the study was over before all kills"
        for name in self.ward.sites:
            assert self.ward.daemons[name].process.wait(90) == 0, self._logs()
        assert committed(self.ward.result()) == list(range(1, self.rounds + 2))
        self.ward.check()

    def _kill(self) -> None:
        if self.dice.random() < 0.5:
            time.sleep(self.dice.uniform(0, 3))
        else:  # the phases of a round are over in the twinkling of an eye
            wanted = PHASES[PHASES.index(self.dice.choice(PHASES)) :]
            until = time.monotonic() + LONGEST_WAIT_S
            while self.phase not in wanted and time.monotonic() < until:
                self._look()
                time.sleep(0.002)
        self._look()
        victim = self.dice.choice([*self.ward.sites, "coordinator"])
        if self.ward.daemons[victim].process.poll() is not None:
            return
        self.ward.kill(victim)
        kill = Kill(
            len(self.done) + 1, time.monotonic() - self.began, self.round, self.phase, victim
        )
        self.done.append(kill)
        self.say(f"{kill.at_s:6.1f} s  round {kill.round:2}  {kill.phase:14} {victim}")
        self._start(victim)

    def _start(self, name: str) -> None:
        """Without waiting: it may be killed while it starts, too."""
        if name != "coordinator":
            self.ward.start_worker(name)
            return
        self.phase = "starting"
        self.ward.daemons[name] = Daemon.start(
            name, self.ward.folder / "coordinator.log", "coordinator", "start",
            "--state", str(self.ward.home), "--listen", f"127.0.0.1:{self.ward.port}",
        )  # fmt: skip

    def _look(self) -> None:
        """Where the round stands; and nobody may have ended without being killed."""
        for event in self.ward.coordinator.news():
            match event.get("event"):
                case "listening":
                    self.phase = "between rounds"
                case "phase":
                    self.round, self.phase = event["round"], event["phase"]
                case "round_committed":
                    self.committed = event["round"]
                    self.phase = "between rounds"
                case "round_aborted":
                    self.phase = "between rounds"
        for name, daemon in self.ward.daemons.items():
            assert not daemon.ended_badly(), f"{name} ended by itself\n{self._logs()}"

    def _logs(self) -> str:
        lines = (f"--- {n}\n{d.last_lines(6)}" for n, d in self.ward.daemons.items())
        return "\n".join([*lines, contract.shown(self.ward)])


def besiege(
    folder: Path, *, sites: int, rounds: int, kills: int, seed: int, say: Callable[[str], None]
) -> Loop:
    """Found a study in `folder` and run it under fire; every folder and log stays there."""
    names = NAMES[:sites]
    ward = Ward(folder, names)
    schedule = {"deadline_s": 60, "quorum": 3, "grace_s": 6, "stage_timeout_s": 6}
    loop = Loop(ward, rounds, kills, random.Random(seed), say)
    try:
        with ward.keeping():
            # Rounds that train again are charged, too: the cap leaves room for them.
            ward.found(plan(names, rounds=rounds, schedule=schedule), epsilon_cap=500.0)
            ward.terminate("coordinator")
            loop.run()
    finally:
        ward.stop()
    return loop


def table(loop: Loop) -> str:
    """Kills by phase and victim."""
    victims = [*loop.ward.sites, "coordinator"]
    hits = Counter((k.phase, k.victim) for k in loop.done)
    lines = ["phase".ljust(16) + "".join(v.rjust(13) for v in victims) + "all".rjust(6)]
    for phase in [*PHASES, "between rounds", "starting"]:
        row = [hits[phase, v] for v in victims]
        lines.append(phase.ljust(16) + "".join(f"{n:13}" for n in row) + f"{sum(row):6}")
    return "\n".join(lines)


def main() -> None:
    """The command line of `make kill-loop`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--sites", type=int, default=5, choices=(4, 5))
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--keep", type=Path, help="Keep folders and logs here.")
    wish = parser.parse_args()
    folder = wish.keep or Path(tempfile.mkdtemp(prefix="kill-loop-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {wish.seed}, everything in {folder}", flush=True)
    began = time.monotonic()
    loop = besiege(
        folder,
        sites=wish.sites,
        rounds=wish.rounds,
        kills=wish.kills,
        seed=wish.seed,
        say=lambda line: print(line, flush=True),
    )
    attempts = loop.ward.result()["attempts"]
    aborted = sum(a["outcome"] == "aborted" for a in attempts)
    print(table(loop))
    print(
        f"rounds 1..{wish.rounds} and the evaluation committed once each, the contract holds; "
        f"{len(attempts)} attempts, {aborted} aborted, {time.monotonic() - began:.0f} s, "
        f"seed {wish.seed}"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
