"""`make faultsim`: thousands of histories on all cores; `SEED=…` lives through one again."""

from __future__ import annotations

import argparse
import logging
import multiprocessing as mp
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator

import structlog

from tests.faultsim.history import History, run

ROUNDS = 20_000


def quiet() -> None:
    """The daemons' own log lines are not kept."""
    nothing = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=nothing, cache_logger_on_first_use=False)


def _histories(first: str, share: int, of: int, results: mp.SimpleQueue[History]) -> None:
    quiet()
    number = share
    while True:
        results.put(_without_trace(run(f"{first}{number}")))
        number += of


def _without_trace(history: History) -> History:
    if history.findings:
        return history
    return History(
        history.seed, (), (), history.trace_hash, history.injected, history.counted,
        history.simulated_s,
    )  # fmt: skip


def _on_all_cores(first: str) -> Iterator[History]:
    context = mp.get_context("spawn")
    results: mp.SimpleQueue[History] = context.SimpleQueue()
    cores = len(os.sched_getaffinity(0))
    workers = [
        context.Process(target=_histories, args=(first, share, cores, results), daemon=True)
        for share in range(cores)
    ]
    for worker in workers:
        worker.start()
    try:
        while True:
            yield results.get()
    finally:
        for worker in workers:
            worker.terminate()


def _replay(seed: str) -> int:
    history = run(seed)
    print("\n".join(history.trace))
    _report(history)
    print(f"trace {history.trace_hash}")
    return 1 if history.findings else 0


def _report(history: History) -> None:
    for finding in history.findings:
        print(f"contract broken: {finding}")
    if history.findings:
        print(f"once more, with every step: make faultsim SEED={history.seed}")


def main() -> int:
    """Exit status 1 when the contract was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", default="", help="one history, with its trace")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="committed rounds to reach")
    parser.add_argument("--first", default="", help="what every seed begins with")
    parser.add_argument("--minutes", type=float, default=240.0, help="stop after so long")
    parser.add_argument("--keep-going", action="store_true", help="past a broken contract")
    asked = parser.parse_args()
    quiet()
    if asked.seed:
        return _replay(asked.seed)
    injected, counted = Counter[str](), Counter[str]()
    histories, broken, simulated_s, began = 0, 0, 0.0, time.monotonic()
    for history in _on_all_cores(asked.first):
        histories += 1
        injected += history.injected
        counted += history.counted
        simulated_s += history.simulated_s
        if history.findings:
            broken += 1
            print("\n".join(history.trace[-40:]))
            _report(history)
            if not asked.keep_going:
                break
        if counted["rounds"] >= asked.rounds or time.monotonic() - began > 60 * asked.minutes:
            break
    minutes = (time.monotonic() - began) / 60
    print(
        f"{counted['rounds']} rounds committed in {histories} histories, {minutes:.1f} minutes: "
        f"{counted['rounds'] / minutes:.0f} rounds/minute; {simulated_s / 86400:.1f} days simulated"
    )
    for title, found in (("faults injected", injected), ("counted", counted)):
        print(f"{title}:")
        for kind, count in sorted(found.items()):
            print(f"  {count:9}  {kind}")
    print(f"contract violations: {broken}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
