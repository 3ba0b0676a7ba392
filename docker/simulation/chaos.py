"""A study whose containers are killed, frozen and cut off while it runs: `make compose-chaos`.

Prints what was done to whom and what the study did, as it happens and as a table at the end.
Fails unless rounds 1..R were committed once each and every ledger was charged once for each.
`chaos.py down` removes what an interrupted run left. CHAOS_SEED repeats the moments of a run.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from demo import SHOWN, line
from project import Failed, Project, docker, main
from verdict import broken_promises, summary

HOSPITALS = ["hospital-a", "hospital-b", "hospital-c", "hospital-d"]
PROJECT = Project("primia-chaos", ["compose.yaml", "compose.chaos.yaml"], HOSPITALS)
LONGEST_S = 2400
LATEST_S = 4.0  # after a round was opened: by then it trains, exchanges keys or is being summed


@dataclass
class Deed:
    """What is done to the study once, in some round."""

    name: str
    hurt: Callable[[], None]
    mend: Callable[[], None] | None = None
    for_s: float = 0.0
    done_at: float = 0.0  # seconds since 1970
    mended_at: float = 0.0
    round: int = 0
    attempt: int = 0


def kill(*services: str) -> Deed:
    """`kill -9` as the kernel's out-of-memory killer does it; the engine restarts the container."""

    def hurt() -> None:
        for service in services:
            _signal(PROJECT.container(service))

    return Deed(f"kill -9 {' '.join(services)}", hurt)


def power_off(service: str, seconds: float) -> Deed:
    """The container is killed and stays away, as a machine does that lost its power."""
    return Deed(
        f"power off {service}",
        lambda: _ignore(docker("kill", PROJECT.container(service))),
        lambda: _ignore(docker("start", PROJECT.container(service))),
        seconds,
    )


def freeze(service: str, seconds: float) -> Deed:
    """Alive, connected and silent."""
    return Deed(
        f"freeze {service}",
        lambda: _ignore(docker("pause", PROJECT.container(service))),
        lambda: _ignore(docker("unpause", PROJECT.container(service))),
        seconds,
    )


def cut_off(service: str, links: list[str], seconds: float) -> Deed:
    """The container leaves these networks; connections stay open at the other side."""

    def hurt() -> None:
        for link in links:
            docker("network", "disconnect", _network(link), PROJECT.container(service))

    def mend() -> None:
        for link in links:
            docker(
                "network", "connect", "--alias", service, _network(link), PROJECT.container(service)
            )

    return Deed(f"cut {service} off from {' '.join(links)}", hurt, mend, seconds)


def _network(link: str) -> str:
    return f"{PROJECT.name}_{link}"


def _ignore(_: object) -> None:
    """For commands whose output says nothing new."""


def _signal(container: str) -> None:
    pid = docker("inspect", "--format", "{{.State.Pid}}", container)
    try:
        os.kill(int(pid), 9)
    except (PermissionError, ProcessLookupError):  # not root, or the engine is on another machine
        docker(
            "run", "--rm", "--pid=host", "--user=0", "--network=none", "--entrypoint=python",
            "primia-worker:local", "-c", f"import os; os.kill({int(pid)}, 9)",
        )  # fmt: skip


def deeds() -> Iterator[Deed]:
    """One for each round, in this order; a round that is tried again is left alone."""
    yield kill("hospital-b")
    yield cut_off("hospital-c", ["link-c"], 20)
    yield kill("coordinator")
    yield freeze("hospital-a", 30)
    yield power_off("hospital-d", 20)
    yield cut_off("coordinator", ["link-a", "link-b"], 20)
    yield kill("hospital-a", "hospital-b", "hospital-c", "hospital-d")
    yield freeze("coordinator", 15)
    yield kill("coordinator", "hospital-c")


@dataclass
class Run:
    """What was seen so far."""

    began: float = field(default_factory=time.time)
    shown: int = 0
    round: int = 0
    attempt: int = 0
    opened_at: float = 0.0

    def say(self, text: str, at: float | None = None) -> None:
        print(f"{(at or time.time()) - self.began:5.0f} s  {text}", flush=True)

    def look(self) -> None:
        """Print the coordinator's news; know the round at hand."""
        events = PROJECT.events("coordinator")
        for event in events[self.shown :]:
            if event.name in SHOWN:
                print(line(event, event.at - self.began), flush=True)
            if event.name == "round_opened":
                self.round, self.attempt = event.fields["round"], event.fields["attempt"]
                self.opened_at = event.at
        self.shown = len(events)

    def over(self) -> bool:
        return PROJECT.state("coordinator") == "exited" and PROJECT.exit_code("coordinator") == 0


def chaos() -> None:
    """Build, up, hurt and mend until the study is over, check, down. Raises Failed."""
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    moments = random.Random(seed)  # noqa: S311 - when to strike is no secret
    run = Run()
    try:
        PROJECT.up()
        run.say(f"images built, all enrolled; CHAOS_SEED={seed}")
        done = _hurt(run, moments)
        run.look()
        result = PROJECT.export()
        charges = {name: PROJECT.charges(name) for name in HOSPITALS}
        print(PROJECT.run("coordinator", "rounds"))
        print(PROJECT.run("coordinator", "why"))
        for row in timeline(done, result, run.began):
            print(row)
        print()
        for text in summary(result, charges):
            print(text)
        wrong = broken_promises(result, charges)
        if wrong:
            raise Failed("; ".join(wrong))
        print(f"{time.time() - run.began:.0f} s in all; the study survived {len(done)} deeds")
    finally:
        if not os.environ.get("PRIMIA_KEEP"):
            PROJECT.down()


def _hurt(run: Run, moments: random.Random) -> list[Deed]:
    """One deed in each round, at a moment drawn; what was done. Raises Failed."""
    waiting, done = deeds(), []
    last_hurt = 0
    while True:
        run.look()
        if run.over():
            break
        if time.time() - run.began > LONGEST_S:
            raise Failed(f"the study did not end within {LONGEST_S} s")
        if run.round > last_hurt:
            last_hurt = run.round
            deed = next(waiting, None)
            if deed is not None:
                pause = run.opened_at + moments.uniform(0, LATEST_S) - time.time()
                time.sleep(max(0.0, pause))
                _do(deed, run)
                done.append(deed)
        time.sleep(0.5)
    left = [d.name for d in waiting]
    if left:
        raise Failed(f"the study ended before this was done: {', '.join(left)}")
    return done


def _do(deed: Deed, run: Run) -> None:
    deed.round, deed.attempt, deed.done_at = run.round, run.attempt, time.time()
    run.say(f">>> {deed.name}")
    deed.hurt()
    if deed.mend is None:
        return
    until = time.time() + deed.for_s
    while time.time() < until:
        run.look()
        time.sleep(0.5)
    deed.mend()
    deed.mended_at = time.time()
    run.say(f">>> {deed.name}: undone")


def timeline(done: list[Deed], result: dict[str, Any], began: float) -> list[str]:
    """What was done to whom, and what became of the round, one row each."""
    rows = [f"{'at':>6} {'for':>5} {'round':>5}  {'what was done':51} what the study did"]
    for deed in done:
        lasted = f"{deed.mended_at - deed.done_at:.0f} s" if deed.mended_at else ""
        tries = [
            a for a in result["attempts"]
            if a["number"] == deed.round and a["attempt"] >= deed.attempt
        ]  # fmt: skip
        rows.append(
            f"{deed.done_at - began:4.0f} s {lasted:>5} {deed.round:5}  {deed.name:51} "
            + "; then ".join(_told(a) for a in tries)
        )
    return rows


def _told(attempt: dict[str, Any]) -> str:
    if attempt["outcome"] != "committed":
        return f"aborted ({attempt['reason']})"
    names = ", ".join(sorted(s.removeprefix("hospital-") for s in attempt["contributors"]))
    return f"committed with {names}"


if __name__ == "__main__":
    main(PROJECT.down if sys.argv[1:] == ["down"] else chaos)
