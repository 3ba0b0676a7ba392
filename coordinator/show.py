"""What the looking commands show; reads the database beside a running daemon."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from coordinator.home import certificate_of, now
from coordinator.record import study_record
from coordinator.rotation import Standing
from coordinator.state import CoordinatorState
from coordinator.why import (
    ago,
    benched_sites,
    head_troubles,
    missing_sites,
    not_in_the_last_sum,
)
from primia.cli.console import out
from primia.errors import StateError
from primia.identity.expiry import days_left, threshold
from primia.report.record import StudyRecord
from primia.report.terminal import sites_table as quality_of_sites
from primia.report.terminal import summary
from primia.report.view import best_and_last
from primia.storage.folder import LOCK_FILE


def sites_json(state: CoordinatorState) -> list[dict[str, Any]]:
    """The roster for scripts: enrolled, struck, and invited sites."""
    sites = [
        {
            "site": s.site,
            "state": "enrolled" if s.struck_at is None else "struck",
            "fingerprint": s.fingerprint,
            "enrolled_at": s.enrolled_at,
            "struck_at": s.struck_at,
            "last_seen": s.last_seen,
            "days_left": _days_left(s.certificate),
        }
        for s in state.sites()
    ]
    invited = [
        {"site": i.site, "state": "invited", "expires_at": i.expires_at}
        for i in state.open_invitations()
    ]
    return sites + invited


def sites_table(state: CoordinatorState) -> Table:
    """The roster for people."""
    table = Table(title="roster")
    for column in ("site", "state", "last seen", "days left", "certificate (SHA-256)"):
        table.add_column(column, overflow="fold")
    for site in state.sites():
        text = "enrolled" if site.struck_at is None else "[red]struck[/]"
        days = _days(_days_left(site.certificate))
        table.add_row(site.site, text, ago(site.last_seen), days, site.fingerprint)
    for invited in state.open_invitations():
        until = datetime.fromtimestamp(invited.expires_at, UTC)
        table.add_row(invited.site, f"invited until {until:%Y-%m-%d}", "-", "-", "-")
    return table


def authorities_json(found: list[Standing]) -> list[dict[str, Any]]:
    """The authorities for scripts."""
    return [
        {
            "fingerprint": a.fingerprint,
            "state": a.state,
            "days_left": _days_left(a.certificate),
            "key_here": a.key_here,
            "sites": list(a.sites),
        }
        for a in found
    ]


def authorities_table(found: list[Standing]) -> Table:
    """The authorities for people."""
    table = Table(title="study authorities")
    for column in ("authority (SHA-256)", "state", "days left", "key", "sites with it"):
        table.add_column(column, overflow="fold")
    for a in found:
        key = "here" if a.key_here else "not here"
        days = _days(_days_left(a.certificate))
        table.add_row(a.fingerprint, a.state, days, key, ", ".join(a.sites) or "-")
    return table


def certificates_json(state: CoordinatorState) -> dict[str, float]:
    """Days left of the coordinator's own certificate and of the authority in use."""
    valid = state.valid_authorities()  # empty in a folder of an older version, until it is started
    return {
        whose: _days_left(pem)
        for row in valid[-1:]
        for whose, pem in (("coordinator", row.coordinator), ("authority", row.certificate))
    }


def _days_left(pem: bytes) -> float:
    return round(days_left(certificate_of(pem), now()), 1)


def _days(days: float) -> str:
    """For people, marked when somebody should look."""
    return f"{days:.0f}" if threshold(days) is None else f"[red]{days:.0f}[/]"


def status_json(state: CoordinatorState) -> dict[str, Any]:
    """Where the study stands, for scripts; works before the first start too."""
    pinned = state.study()
    if pinned is None:
        return {
            "state": "not started",
            "sites": sites_json(state),
            "certificate_days": certificates_json(state),
        }
    record = study_record(state)
    attempts = state.attempts()
    current = attempts[-1] if attempts and attempts[-1].outcome == "open" else None
    _, last = best_and_last(record)
    return {
        "state": record.state,
        "daemon_running": is_running(state.folder),
        "away": missing_sites(state, record),
        "benched": [b.site for b in benched_sites(state, record)],
        "not_in_the_last_sum": not_in_the_last_sum(record),
        "rolled_back": head_troubles(state),
        "study": record.study,
        "plan": record.plan_digest,
        "rounds": record.plan["rounds"],
        "committed": len(record.committed),
        "aborted": sum(a.outcome == "aborted" for a in attempts),
        "open": None
        if current is None
        else {
            "round": current.round.number,
            "attempt": current.round.attempt,
            "kind": current.round.kind.value,
            "phase": current.phase,
            "waiting_for": list(current.waiting_for),
        },
        "model": None
        if last is None or last.scores is None
        else {"number": last.number, "auc": last.scores.auc, "loss": last.scores.loss},
        "best": record.best,
        "returns": [
            {
                "round": a.number,
                "votes": a.votes,
                "sites": len(a.contributors),
                "returned_to": a.returned_to,
            }
            for a in record.returns
        ],
        "sites": sites_json(state),
        "certificate_days": certificates_json(state),
    }


def status_panel(state: CoordinatorState) -> RenderableType:
    """Where the study stands, for people."""
    if state.study() is None:
        return Group(Text("not started: primia-coordinator start --plan FILE"), sites_table(state))
    record = study_record(state)
    current = status_json(state)["open"]
    line = Text(_between_rounds(state, record))
    if current is not None:
        waiting = ", ".join(current["waiting_for"]) or "nobody"
        line = Text(
            f"round {current['round']} (attempt {current['attempt']}): {current['phase']}, "
            f"waiting for {waiting}"
        )
    parts: list[RenderableType] = [summary(record), line, quality_of_sites(record)]
    if record.state != "finished":
        parts += [
            Text(f"on the bench: {b.site}, {b.reason}; ask primia-coordinator why", style="yellow")
            for b in benched_sites(state, record)
        ]
    missing = not_in_the_last_sum(record)
    if missing is not None:
        parts.append(Text(missing, style="yellow"))
    parts += [Text(text, style="red") for text in _ends_soon(state)]
    if record.state != "finished" and not is_running(state.folder):
        parts.append(Text("no coordinator is running; resume: primia-coordinator start"))
    parts.extend(
        Text(
            f"put back to an older copy: {found['phase']}"
            f"{' ' + found['site'] if found['site'] else ''} ({found['reason']}); "
            "ask primia-coordinator why",
            style="bold red",
        )
        for found in head_troubles(state)
    )
    return Group(*parts)


def _ends_soon(state: CoordinatorState) -> list[str]:
    """A line for each certificate that a person should look at."""
    days = certificates_json(state) | {
        f"site {s.site}": _days_left(s.certificate) for s in state.enrolled()
    }
    return [
        f"the certificate of {whose} ends in {left:.0f} days; docs/operations.md, "
        '"Certificates" says what to do'
        for whose, left in days.items()
        if threshold(left) is not None
    ]


def is_running(folder: Path) -> bool:
    """Whether a coordinator holds the folder's lock."""
    import fcntl

    try:
        handle = os.open(folder / LOCK_FILE, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _between_rounds(state: CoordinatorState, record: StudyRecord) -> str:
    if record.state == "finished":
        return state.noted("over") or "all rounds are committed"
    away = missing_sites(state, record)
    if not away:
        return "no round is open; the next one opens within a minute"
    sites = ", ".join(f"{name} ({why})" for name, why in away.items())
    return f"no round is open; {record.plan['schedule']['quorum']} sites are needed, away: {sites}"


def watch_status(state: CoordinatorState) -> None:
    """Refresh the panel until the study is over or Ctrl-C."""
    with Live(status_panel(state), console=out, refresh_per_second=2) as live:
        while (state.noted("state") or "running") != "finished":
            time.sleep(1.0)
            live.update(status_panel(state))


def stop_daemon(folder: Path) -> str:
    """Send SIGTERM to the holder of the folder and wait for it to let go (10 s)."""
    import fcntl

    try:
        handle = os.open(folder / LOCK_FILE, os.O_RDWR)
    except OSError as err:
        raise StateError(f"{folder} is no coordinator's folder") from err
    try:
        for attempt in range(100):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if attempt == 0:
                    os.kill(int(os.pread(handle, 32, 0)), signal.SIGTERM)
                time.sleep(0.1)
            else:
                return "stopped" if attempt else "no coordinator is running here"
    finally:
        os.close(handle)
    raise StateError("the coordinator did not stop within 10 s; look at its log")
