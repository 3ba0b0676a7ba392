"""The quick set of attacks that a report of a demonstration carries, on synthetic films."""

from __future__ import annotations

from collections.abc import Callable

from primia.audit.films import SIZE, Case, drawn, resized
from primia.audit.imprint import attack_imprint
from primia.audit.invert import Wishes
from primia.audit.invert_finding import attack_invert
from primia.audit.labels import attack_labels
from primia.audit.mechanism import audit_mechanism
from primia.audit.networks import first_network
from primia.audit.threads import one_thread
from primia.config.plan import StudyPlan
from primia.findings import Finding
from primia.settle import settle

_SEED = 0
_TRIALS = 20
_WISHES = Wishes(films=2, steps=100, seconds=60.0, seed=_SEED)


@one_thread()
def findings_for_report(
    plan: StudyPlan, *, on_step: Callable[[str], None] = lambda _what: None
) -> tuple[Finding, ...]:
    """Attack the plan's own release path, at 28 px; some twenty seconds of one core.

    on_step: hears what is being done. Nothing for a plan that says `privacy: none`: there is no
    protection to try, and the report says so. Raises ConfigError for a plan whose classes are more
    than can be drawn.
    """
    if plan.privacy == "none":
        return ()
    settled = settle(plan)
    small = resized(settled, SIZE)
    case = Case(small, drawn(small, _SEED), own=False, study=settled)
    on_step("sending canaries")
    audited = audit_mechanism(settled)
    return (
        attack_invert(case, None, _WISHES, on_part=lambda what, _share: on_step(what)),
        attack_imprint(case, seed=_SEED, on_step=on_step),
        attack_labels(case, first_network(case.plan), seed=_SEED, trials=_TRIALS, on_step=on_step),
        audited,
    )
