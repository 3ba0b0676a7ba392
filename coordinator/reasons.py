"""Why something did not go well, and what to do about it: the one table.

The machine's and the record's reasons are texts for people, some with a detail behind them; here
each has its code, by how its text begins.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.state import DISCARDED, RESTARTED

AWAY = "away: nothing was heard of its worker in this round"


@dataclass(frozen=True)
class Reason:
    """One kind of trouble. next: what a person does about it.

    begins: how its text begins. holds: what must also be in it.
    """

    code: str
    begins: str
    next: str
    holds: str = ""


TABLE = (
    Reason("away", AWAY, "start that worker or mend its link; it rejoins by itself"),
    Reason(
        "late",
        "no answer in time",
        "look at that worker's log and link; if it is only slow, raise schedule.deadline_s or "
        "grace_s in the next plan. It rejoins by itself",
    ),
    Reason(
        "worker-restarted",
        "declined: ",
        "that worker was restarted in the round; it rejoins by itself",
        holds=" came while this site is at ",
    ),
    Reason("declined", "declined", "the hospital decided; ask its operator"),
    Reason("struck", "struck", "it stays out; invite it again if it is to take part"),
    Reason(
        "wrong-share",
        "revealed a wrong share",
        "its secrets did not open what it sent; ask its operator to check its version and disk",
    ),
    Reason("round-ended", "the attempt ended", "nothing; it is invited to the next attempt"),
    Reason("coordinator-restarted", RESTARTED, "nothing; the round was opened again"),
    Reason(
        "discarded",
        DISCARDED,
        "nothing was applied; if it comes back, ask each hospital to check its worker",
    ),
    Reason(
        "not-enough",
        "",  # whatever else ends an attempt
        "nothing was released; the next attempt starts once a quorum is there",
    ),
)


def reason_of(text: str) -> Reason:
    """The table's row for a reason as it stands in the record."""
    return next(r for r in TABLE if text.startswith(r.begins) and r.holds in text)
