"""The quick set of attacks that a report of a demonstration carries, on synthetic films."""

from __future__ import annotations

from collections.abc import Callable

from primia.audit.films import Case, drawn
from primia.audit.labels import attack_labels
from primia.audit.mechanism import audit_mechanism
from primia.audit.networks import first_network
from primia.config.plan import StudyPlan
from primia.findings import Finding
from primia.settle import settle

_SEED = 0
_TRIALS = 20


def findings_for_report(
    plan: StudyPlan, *, on_step: Callable[[str], None] = lambda _what: None
) -> tuple[Finding, ...]:
    """Attack the plan's own release path; some twenty seconds of one core.

    on_step: hears what is being done. Nothing for a plan that says `privacy: none`: there is no
    protection to try, and the report says so. Raises ConfigError for a plan whose classes are more
    than can be drawn.
    """
    if plan.privacy == "none":
        return ()
    settled = settle(plan)
    case = Case(settled, drawn(settled, _SEED), own=False)
    network = first_network(settled)
    on_step("sending canaries")
    audited = audit_mechanism(settled)
    return (audited, attack_labels(case, network, seed=_SEED, trials=_TRIALS, on_step=on_step))
