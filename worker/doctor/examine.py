"""All checks, in the order in which they build on each other."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from primia.config.plan import StudyPlan
from primia.config.site import Caps, Compute, SiteConfig, load_site
from primia.errors import ConfigError
from primia.storage.snapshot import Snapshot
from worker.doctor import books, consent, films, folder, link, machine, mock_sum
from worker.doctor.visit import TOTAL_S, Seen, Visit

T = TypeVar("T")

HEAVY_S = 25.0  # importing torch, reading films, a private step
DEEP_S = 120.0  # the audit
MANY_FILMS = "there are many: primia-worker plan show reads them all and compares them"


def examine(
    state: Path, config_file: Path, *, total_s: float = TOTAL_S, deep: bool = False
) -> Visit:
    """Look at everything that `primia-worker run` would need. Raises nothing.

    state: the worker's folder, and config_file its site file; neither need be there.
    deep: audit the release mechanism, too; some ten seconds, and as many times more when busy.
    """
    visit, disk = Visit(total_s + (DEEP_S if deep else 0.0)), Snapshot()
    look = visit.look
    config = look("site file", "Write or mend the site file", lambda: _site_file(config_file))
    look("enrolment", "Enrol this site", lambda: folder.enrolment(state))
    home = ["enrolment"]
    look(
        "folder and keys", "Close what is open to others",
        lambda: folder.modes(state, config), needs=home,
    )  # fmt: skip
    look("sums", "Look at labels and models", lambda: books.sums(state, disk), needs=home)
    identity = look(
        "identity", "Mend this site's identity", lambda: folder.identity(state, disk), needs=home
    )
    look(
        "ledger", "Restore the privacy ledger",
        lambda: books.ledger(state, _sure(config), disk), needs=[*home, "site file"],
    )  # fmt: skip
    look("audit log", "Restore the audit log", lambda: books.audit_log(state, disk), needs=home)
    look(
        "books", "Restore the books of this site from one backup",
        lambda: books.of_one_age(state, _sure(config), _sure(identity)),
        needs=["identity", "ledger", "audit log"],
    )  # fmt: skip
    look(
        "connection", "Mend the way to the coordinator",
        lambda: link.connection(_sure(identity)), needs=["identity"],
    )  # fmt: skip
    answer = look(
        "coordinator", "Have the coordinator take this site's calls",
        lambda: link.study(_sure(identity)), needs=["connection"], limit_s=HEAVY_S,
    )  # fmt: skip
    look("clock", "Set the clock", lambda: link.clock(_sure(answer)), needs=["coordinator"])
    plan = look(
        "plan", "Have the coordinator's operator mend the plan",
        lambda: consent.plan(state, _sure(identity), _sure(answer).bundle, disk),
        needs=["coordinator"],
    )  # fmt: skip
    look(
        "caps", "Settle the plan with the lead",
        lambda: consent.caps(state, _sure(config), _sure(identity), _sure(plan), disk),
        needs=["plan", "site file"],
    )  # fmt: skip
    _machine(visit, state, config, plan)
    if deep:
        _deep(visit, config, plan)
    _films(visit, config)
    cohort = look(
        "cohort", "Mend the films of the cohort",
        lambda: films.cohort(state, _sure(config), _sure(plan), disk),
        needs=["plan", "ledger", "site file"], limit_s=HEAVY_S, unless_slow=MANY_FILMS,
    )  # fmt: skip
    look(
        "approval", "Have people look at the plan and the films, and approve them",
        lambda: consent.approval(
            state, _sure(config), _sure(plan), None if cohort is None else cohort[0], disk
        ),
        needs=["caps"] if visit.given_up("cohort") else ["caps", "cohort"],
    )  # fmt: skip
    look(
        "budget", "Settle what these patients may still show",
        lambda: consent.budget(
            state, _sure(config), _sure(identity), _sure(plan), cohort, disk
        ),
        needs=["caps", "ledger"],
    )  # fmt: skip
    return visit


def _machine(visit: Visit, state: Path, config: SiteConfig | None, plan: StudyPlan | None) -> None:
    look = visit.look
    compute = Compute() if config is None else config.compute
    caps = None if config is None else config.caps
    look("software", "Install primia again", machine.software, limit_s=HEAVY_S)
    torch = ["software"]
    look("device", "Mend the device to train on", lambda: machine.device(compute), needs=torch)
    look("memory", "Free memory", machine.memory, needs=torch)
    look(
        "disk", "Make room for the state folder",
        lambda: machine.disk(state, None if plan is None else _model_bytes(plan)),
        needs=torch,
    )  # fmt: skip
    look("masked sum", "Install primia again", lambda: mock_sum.masked_sum(plan))
    look(
        "private step", "Have this machine train",
        lambda: _private_step(plan, compute, caps),
        needs=["device"], limit_s=HEAVY_S,
    )  # fmt: skip


def _model_bytes(plan: StudyPlan) -> int:
    from worker.doctor import mock_step  # late: it loads torch

    return mock_step.model_bytes(plan)


def _private_step(plan: StudyPlan | None, compute: Compute, caps: Caps | None) -> Seen[None]:
    from worker.doctor import mock_step

    return mock_step.private_step(plan, compute, caps)


def _deep(visit: Visit, config: SiteConfig | None, plan: StudyPlan | None) -> None:
    def audit() -> Seen[None]:
        from worker.doctor import deep

        return deep.audit(plan, Compute() if config is None else config.compute)

    visit.look(
        "audit", "Find out why patients show more than the plan claims", audit,
        needs=["private step"], limit_s=DEEP_S,
    )  # fmt: skip


def _films(visit: Visit, config: SiteConfig | None) -> None:
    visit.look(
        "decoders", "Install what decodes these films",
        lambda: films.decoders(_sure(config).data), needs=["site file"],
    )  # fmt: skip
    visit.look(
        "sample films", "Mend the films or their place",
        lambda: films.samples(_sure(config).data), needs=["site file"], limit_s=HEAVY_S,
    )  # fmt: skip


def _site_file(path: Path) -> Seen[SiteConfig]:
    if not path.exists():
        raise ConfigError(
            f"{path} is not there; copy site.example.yaml, edit it, and name it with --config"
        )
    return Seen(load_site(path), str(path))


def _sure(value: T | None) -> T:
    """What a check gave on which this one depends (`needs`)."""
    assert value is not None
    return value
