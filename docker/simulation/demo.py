"""A study in containers from films to report: `make compose-demo`.

The report comes to docker/out/. Fails unless every round was committed once and every ledger says
the same. `demo.py down` removes what an interrupted run left. PRIMIA_KEEP=1 leaves all up.
"""

from __future__ import annotations

import os
import sys
import time

from project import OUT, Event, Failed, Project, main
from verdict import broken_promises, summary

PROJECT = Project("primia-demo", ["compose.yaml"], ["hospital-a", "hospital-b", "hospital-c"])
LONGEST_S = 1800  # for the whole study; minutes are expected
SHOWN = ("site_attends", "round_opened", "round_committed", "round_aborted", "study_over")


def demo() -> None:
    """Build, up, follow, check, down. Raises Failed."""
    began = time.monotonic()
    try:
        PROJECT.up()
        print(f"{time.monotonic() - began:.0f} s: images built, all enrolled", flush=True)
        _follow(began)
        result = PROJECT.export()
        charges = {name: PROJECT.charges(name) for name in PROJECT.hospitals}
        print(PROJECT.run("coordinator", "rounds"))
        for line in summary(result, charges):
            print(line)
        wrong = broken_promises(result, charges)
        if wrong:
            raise Failed("; ".join(wrong))
        print(f"{time.monotonic() - began:.0f} s in all; open {OUT / 'report.html'}")
    finally:
        if not os.environ.get("PRIMIA_KEEP"):
            PROJECT.down()


def _follow(began: float) -> None:
    """Print what the coordinator logs until it ends well. Raises Failed."""
    shown = 0
    while True:
        over = PROJECT.state("coordinator") == "exited"
        events = PROJECT.events("coordinator")
        for event in events[shown:]:
            if event.name in SHOWN:
                print(line(event, event.at - time.time() + time.monotonic() - began), flush=True)
        shown = len(events)
        PROJECT.check_well()
        if over:
            return
        if time.monotonic() - began > LONGEST_S:
            raise Failed(f"the study did not end within {LONGEST_S} s")
        time.sleep(1)


def line(event: Event, after_s: float) -> str:
    """One event for people."""
    told = " ".join(f"{k}={v}" for k, v in event.fields.items() if k not in {"level", "kind"})
    return f"{after_s:5.0f} s  {event.name:16} {told}"


if __name__ == "__main__":
    main(PROJECT.down if sys.argv[1:] == ["down"] else demo)
