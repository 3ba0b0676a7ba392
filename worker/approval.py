"""Nothing is trained before people of this hospital have approved this plan and this cohort.

An approval names the digest of the plan, the digest of the cohort's manifest and the caps it was
given under. It holds for exactly these: a film more, a label changed, another plan or a looser cap
voids it, and so does a refusal. Decisions are only ever added, in worker.db, with name and time.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from primia.config.site import Caps, SiteConfig, loosened
from primia.errors import ConfigError, PolicyRefused
from primia.types import Digest
from worker.state import Decision, WorkerState


class NotApproved(PolicyRefused):
    """The approval that this site's work needs is not in force. Nothing was trained."""


@dataclass(frozen=True)
class Subject:
    """What is to be approved, as it is now. `films` and `patients` are for this site's eyes."""

    plan: Digest
    cohort: Digest
    policy: str  # caps and number of approvers, see `policy_of`
    films: int
    patients: int


@dataclass(frozen=True)
class Standing:
    """Whether the work may go on.

    approved_by: names that count. missing: how many more are needed; 0 means approved.
    why: what is missing and what to do, with counts, for this site's eyes.
    """

    approved_by: tuple[str, ...]
    missing: int
    why: str = ""


def policy_of(config: SiteConfig) -> str:
    """The part of the site file that an approval is given under, as text."""
    caps = config.caps.model_dump(mode="json")
    return json.dumps({"approvers": config.approval.approvers, "caps": caps}, sort_keys=True)


def standing(decisions: Sequence[Decision], subject: Subject) -> Standing:
    """Hold the decisions, oldest first, against what is to be approved now."""
    needed: int = json.loads(subject.policy)["approvers"]
    names: dict[str, str] = {}
    for made in reversed(decisions):
        if not made.approved or (made.plan, made.cohort) != (subject.plan, subject.cohort):
            break  # what was approved before is replaced
        if not _loosened(made.policy, subject.policy):
            names.setdefault(_plain(made.name), made.name)
    missing = max(0, needed - len(names))
    if not missing:
        return Standing(tuple(names.values()), 0)
    return Standing(tuple(names.values()), missing, _why(decisions, subject, tuple(names.values())))


@dataclass(frozen=True)
class Person:
    """Who decides: a name and a role as given, and the account that typed it."""

    name: str
    role: str
    account: str

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("a decision needs a name; say who decides with --as NAME")


def approve(state: WorkerState, subject: Subject, by: Person) -> Standing:
    """Record that `by` agrees to `subject`, durably; returns where it stands then.

    Raises PolicyRefused when this name has approved it and another one is needed, or when the site
    has worked for another plan in this folder.
    """
    before = standing(state.decisions(), subject)
    if _plain(by.name) in map(_plain, before.approved_by):
        if before.missing:
            raise PolicyRefused(
                f"{by.name} has approved this already; the site file asks for {before.missing} "
                "more (approval.approvers), under another name"
            )
        return before
    state.pin_plan(subject.plan)
    state.add_decision(
        approved=True,
        plan=subject.plan,
        cohort=subject.cohort,
        policy=subject.policy,
        films=subject.films,
        patients=subject.patients,
        name=by.name.strip(),
        role=by.role.strip(),
        account=by.account,
    )
    return standing(state.decisions(), subject)


def refuse(state: WorkerState, by: Person, reason: str) -> None:
    """Record, durably, that nothing approved so far holds any more."""
    state.add_decision(
        approved=False,
        name=by.name.strip(),
        role=by.role.strip(),
        account=by.account,
        reason=reason.strip(),
    )


def check(state: WorkerState, subject: Subject) -> None:
    """Raise NotApproved unless enough people have approved `subject`."""
    found = standing(state.decisions(), subject)
    if found.missing:
        raise NotApproved(found.why)


_REMEDY = "run: primia-worker plan show, then: primia-worker plan approve"


def _why(decisions: Sequence[Decision], subject: Subject, names: tuple[str, ...]) -> str:
    if not decisions:
        return f"nobody here has approved this plan and this cohort yet; {_REMEDY}"
    last = decisions[-1]
    who = f"{last.name} on {when(last)}"
    if not last.approved:
        reason = f" ({last.reason})" if last.reason else ""
        return f"refused by {who}{reason}; to go on after all, {_REMEDY}"
    if names:
        return f"approved by {', '.join(names)}; a second person has to approve, {_REMEDY}"
    if last.plan != subject.plan:
        return (
            f"the plan is not the one that was approved by {who}: {last.plan[:16]}… then, "
            f"{subject.plan[:16]}… now; {_REMEDY}"
        )
    if last.cohort != subject.cohort:
        return (
            f"the cohort changed since it was approved by {who}: {last.cohort[:16]}… "
            f"({last.films} films of {last.patients} patients) then, {subject.cohort[:16]}… "
            f"({subject.films} films of {subject.patients} patients) now; {_REMEDY}"
        )
    looser = ", ".join(_loosened(last.policy, subject.policy))
    return f"caps were loosened since the approval by {who}: {looser}; {_REMEDY}"


def when(decision: Decision) -> str:
    """The time of a decision as text."""
    return datetime.fromtimestamp(decision.made_at, UTC).isoformat(" ", "minutes")[:16] + " UTC"


def _loosened(then: str, now: str) -> list[str]:
    """Which parts of the policy allow more now than then. What cannot be read allows anything."""
    old, new = json.loads(then), json.loads(now)
    try:
        found = loosened(
            Caps.model_validate_json(json.dumps(old["caps"])),
            Caps.model_validate_json(json.dumps(new["caps"])),
        )
    except ValueError:
        return ["caps of another version of primia"]
    if new["approvers"] < old["approvers"]:
        found.append(f"approval.approvers {old['approvers']} then, {new['approvers']} now")
    return found


def _plain(name: str) -> str:
    """One person's name is one, however it is typed: case, blanks, accents composed or not."""
    shown = (c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    return " ".join("".join(shown).casefold().split())
