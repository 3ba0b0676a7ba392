"""The audit of the release mechanism on this machine and its device, for the study's plan."""

from __future__ import annotations

import torch

from primia.audit.mechanism import STAND_IN, audit_mechanism
from primia.config.plan import StudyPlan
from primia.config.site import Compute
from primia.errors import StateError
from primia.findings import Verdict
from worker.devices import devices_of
from worker.doctor.visit import Seen


def audit(plan: StudyPlan | None, compute: Compute) -> Seen[None]:
    """Made-up patients through everything between a film and the sum. Raises StateError when what
    the plan claims is refuted."""
    if plan is not None and plan.privacy == "none":
        return Seen(None, "the plan says privacy: none, so it claims nothing to audit")
    torch.set_num_threads(compute.threads)
    found = audit_mechanism(plan or STAND_IN, device=devices_of(compute)[0])
    if found.verdict is Verdict.REFUTED:
        raise StateError(
            f"{found.answer}; do not train on this machine: install primia again, run this once "
            "more (a sound one is refuted once in 500 times), and report it if it stays"
        )
    stand_in = " (a stand-in, for the plan is not known)" if plan is None else ""
    return Seen(None, f"not refuted, which is no proof: {found.answer}{stand_in}")
