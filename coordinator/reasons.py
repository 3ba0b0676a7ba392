"""Why something did not go well, and what to do about it: the one table.

The code is kept in the record's rows beside the text, which is for people.
"""

from __future__ import annotations

RESTARTED = "coordinator-restarted"
DISCARDED = "discarded"
NOT_ENOUGH = "not-enough"
AWAY = "away"
BENCHED = "benched"
LATE_ANSWER = "late-answer"
WORKER_RESTARTED = "worker-restarted"
CALL_REFUSED = "call-refused"
NOT_RENEWED = "not-renewed"

NEXT = {
    AWAY: "start that worker or mend its link; it rejoins by itself",
    "late": "look at that worker's log and link; if it is only slow, raise schedule.deadline_s or "
    "grace_s in the next plan. It rejoins by itself",
    "declined": "the hospital decided; ask its operator",
    "struck": "it stays out; invite it again if it is to take part",
    "wrong-share": "its secrets did not open what it sent; ask its operator to check its version "
    "and disk",
    "round-ended": "nothing; it is invited to the next attempt",
    BENCHED: "see why it missed those rounds; it is invited again once its worker is back, or by: "
    "primia-coordinator roster --readmit SITE",
    RESTARTED: "nothing; the round was opened again",
    DISCARDED: "nothing was applied; if it comes back, ask each hospital to check its worker",
    NOT_ENOUGH: "nothing was released; the next attempt starts once a quorum is there",
    LATE_ANSWER: "its worker is slower than the others or its link is; raise schedule.deadline_s "
    "or grace_s in the next plan if this comes back",
    WORKER_RESTARTED: "nothing, unless it comes back; then look at that worker's log",
    CALL_REFUSED: "if it is a hospital of this study: its worker's log says the same reason and "
    "what to do; if nobody knows the caller, look at the firewall",
    NOT_RENEWED: "put the folder authority/ back for a quarter of an hour (docs/operations.md, "
    "Certificates)",
    "": "ask primia-coordinator status",  # a record of before there were codes
}
"""What a person does about it, by code."""
