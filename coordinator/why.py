"""What did not go well: site, phase, reason and what to do about it; for `why` and `status`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from rich.text import Text

from coordinator.bench import Benched, bench
from coordinator.reasons import BENCHED, NEXT
from coordinator.state import CoordinatorState
from primia.report.record import StudyRecord
from primia.report.view import return_text
from primia.report.words import clean
from primia.types import SiteId

AWAY_S = 60.0  # a worker that is there is heard of every 20 s, unless it trains
_MISSING = {
    "not": "invite it: primia-coordinator invite SITE --address HOST:PORT, then it enrols",
    "struck": "it stays out; invite it again if it is to take part",
    "last": "look at that worker and its link; it rejoins by itself",
}


def everything(state: CoordinatorState, record: StudyRecord) -> list[dict[str, Any]]:
    """All of it: by round first, then what belongs to none, then how it is now."""
    stored = stored_troubles(state)
    of_rounds = [*troubles(record), *(t for t in stored if t["round"] is not None)]
    of_rounds.sort(key=lambda t: (t["attempt"], t["site"] or ""))
    others = [t for t in stored if t["round"] is None]
    return [*of_rounds, *others, *absent_now(state, record), *head_troubles(state)]


def troubles(record: StudyRecord) -> list[dict[str, Any]]:
    """Aborted attempts, absent sites and models taken back, from the record of the rounds."""
    found: list[dict[str, Any]] = []
    for attempt in record.attempts:
        which = {"round": attempt.number, "attempt": attempt.attempt}
        if attempt.outcome == "aborted":
            found.append(
                which | _trouble(None, "round", attempt.code, attempt.reason, _next(attempt.code))
            )
        if attempt.returned_to is not None:
            found.append(
                which
                | _trouble(
                    None,
                    "vote",
                    "model-rejected",
                    return_text(attempt),
                    "a sum held a poisoned or failed update, or the AUC jumps by more than "
                    "evaluation.vote_tolerance; if it comes back, ask each hospital to check its "
                    "worker",
                )
            )
        found.extend(
            which | _trouble(a.site, a.phase, a.code, a.reason, _next(a.code, a.site))
            for a in attempt.lost
        )
    return found


def stored_troubles(state: CoordinatorState) -> list[dict[str, Any]]:
    """Refused calls, late answers, workers that were restarted, renewals that failed."""
    return [
        {"round": t.round or None, "attempt": t.attempt or None}
        | _trouble(t.who or None, t.phase, t.code, t.reason, _next(t.code))
        | {"times": t.times, "last_at": t.last_at}
        for t in state.troubles.all()
    ]


def head_troubles(state: CoordinatorState) -> list[dict[str, Any]]:
    """Ledgers and audit logs that went back."""
    return [
        {"round": None, "attempt": found.attempt}
        | _trouble(
            found.site,
            f"books of the {found.whose}",
            "books-put-back",
            found.reason,
            "ask its operator to stop the worker and restore the newest copy of its whole "
            "folder, and whether two workers run on copies of it"
            if found.whose == "site"
            else "this coordinator's folder was restored from an older copy: rounds since then "
            "may be repeated; tell the hospitals, who see it in their audit logs",
        )
        for found in state.head_troubles()
    ]


def absent_now(state: CoordinatorState, record: StudyRecord) -> list[dict[str, Any]]:
    """Sites that are on the bench, or that no round can start with now; nobody once it is over."""
    if record.state == "finished":
        return []
    none = {"round": None, "attempt": None}
    benched = {b.site: b for b in benched_sites(state, record)}
    found = [
        none
        | _trouble(
            b.site,
            "bench",
            BENCHED,
            b.reason,
            "start its worker; it is then invited again"
            if b.was_away
            else f"see why it was late, then: primia-coordinator roster --readmit {b.site}",
        )
        for b in benched.values()
    ]
    for site, why in missing_sites(state, record).items():
        if site not in benched:
            next_ = _MISSING[why.partition(" ")[0]]
            found.append(none | _trouble(site, "between rounds", "away", why, next_))
    return found


def missing_sites(state: CoordinatorState, record: StudyRecord) -> dict[str, str]:
    """Sites of the plan that no round can start with now, and why."""
    known = {s.site: s for s in state.sites()}
    found = {}
    for name in record.plan["sites"]:
        site = known.get(name)
        if site is None:
            found[name] = "not enrolled"
        elif site.struck_at is not None:
            found[name] = "struck"
        elif site.last_seen is None or time.time() - site.last_seen > AWAY_S:
            found[name] = f"last seen {ago(site.last_seen)}"
    return found


def benched_sites(state: CoordinatorState, record: StudyRecord) -> tuple[Benched, ...]:
    """As the next round would find them; who is there is judged by when it was last seen."""
    enrolled = {s.site for s in state.enrolled()}
    invited = enrolled & {SiteId(s) for s in record.plan["sites"]}
    schedule = record.plan["schedule"]
    return bench(
        state.attempts(),
        invited,
        invited - {SiteId(s) for s in missing_sites(state, record)},
        quorum=schedule["quorum"],
        most_missed=schedule["max_rounds_missed"],
        readmitted=state.readmitted(),
    )


def not_in_the_last_sum(record: StudyRecord) -> str | None:
    """One line about who is missing from the newest committed round, and why."""
    done = [a for a in record.attempts if a.outcome == "committed"]
    if not done or not done[-1].absent:
        return None
    sites = "; ".join(f"{a.site} ({a.phase}: {a.reason})" for a in done[-1].absent)
    return clean(f"not in the sum of round {done[-1].number}: {sites}")


def ago(moment: float | None) -> str:
    """When something was, for people."""
    if moment is None:
        return "never"
    seconds = max(0.0, time.time() - moment)
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")


def text_of(found: list[dict[str, Any]]) -> Text:
    """The troubles for people, three lines each; the same in round after round only once."""
    text = Text()
    for _, same in groupby(found, key=lambda t: (t["site"], t["phase"], t["code"])):
        items = list(same)
        head = " · ".join(_head(items))
        text.append(clean(head) + "\n", style="bold")
        text.append(f"    {clean(items[-1]['reason'])}\n")
        text.append(f"    → {items[-1]['next']}\n", style="cyan")
    text.rstrip()
    return text


def _head(items: list[dict[str, Any]]) -> Iterator[str]:
    first, last = items[0], items[-1]
    if last["round"] is not None:
        if first["round"] == last["round"]:
            yield f"round {last['round']} (attempt {last['attempt']})"
        else:
            yield f"rounds {first['round']} to {last['round']} ({len(items)} attempts)"
    if last["site"]:
        yield last["site"]
    if last["phase"]:
        yield last["phase"]
    yield last["code"] or "unknown"
    times = sum(i.get("times", 1) for i in items)
    if times > 1 and "times" in last:
        yield f"{times} times, last {ago(last['last_at'])}"


def _next(code: str, site: str = "SITE") -> str:
    return NEXT[code].replace("SITE", site)


def _trouble(site: str | None, phase: str, code: str, reason: str, next_: str) -> dict[str, Any]:
    return {"site": site, "phase": phase, "code": code, "reason": reason, "next": next_}
