"""What a study costs one patient, in figures and plain words, and the hospital's limits on it."""

from __future__ import annotations

import math

from primia.annex.document import Section, Table
from primia.config.plan import StudyPlan
from primia.config.site import SiteConfig
from primia.learning.terms import is_distributed, study_mechanism
from primia.privacy import epsilon

UNIT = "one patient, with all of his or her films at this hospital; not one film"


def alarms(plan: StudyPlan) -> list[Section]:
    """What a reader must not miss of this plan."""
    found = []
    if plan.privacy == "none":
        found.append(
            Section(
                "No differential privacy",
                (
                    "The plan says privacy: none. Masks hide each hospital's update from the "
                    "coordinator, but nothing limits what the model itself shows of a patient: "
                    "films of training patients may be recognised or partly rebuilt from it. The "
                    "model has to be handled as personal data.",
                ),
                alarm=True,
            )
        )
    if is_distributed(plan):
        found.append(
            Section(
                "Protection that relies on other hospitals",
                (
                    "The plan says privacy.noise: distributed. Each hospital adds a share of the "
                    "noise only. The figures below hold while the masks hold and at most "
                    f"{plan.colluding_sites} of the hospitals pool what they know with the "
                    "coordinator; otherwise a patient of this hospital is protected less than "
                    "stated.",
                ),
                alarm=True,
            )
        )
    return found


def privacy(plan: StudyPlan) -> tuple[str | Table, ...]:
    """ε and δ of the whole study, what they mean, and what they leave out."""
    whole = study_mechanism(plan)
    if plan.privacy == "none" or whole is None:
        return ("There is no ε: the plan trains without differential privacy (see above).",)
    delta = plan.privacy.delta
    spent = epsilon([whole], delta)
    relies = "nobody: each hospital adds all of the noise itself, before masking"
    if is_distributed(plan):
        relies = (
            f"the masks, and on at most {plan.colluding_sites} of the hospitals pooling what they "
            "know with the coordinator"
        )
    rows = (
        ("Unit", UNIT),
        ("ε over the whole study", f"{spent:.3f}"),
        ("δ", f"{delta:g}"),
        ("Neighbouring data sets", "the patient added or removed"),
        (
            "From",
            f"noise multiplier {whole.noise_multiplier:g}, clip norm {plan.privacy.clip_norm:g}, "
            f"sampling rate {whole.sampling_rate:g}, {whole.steps} steps",
        ),
        ("Relies on", relies),
    )
    return (Table(rows), *_in_words(spent, delta), _NOT_COVERED)


def _in_words(spent: float, delta: float) -> tuple[str, ...]:
    digits = 1 if spent < 3 else 0
    odds = f"{math.exp(spent):,.{digits}f}" if spent < 20 else "more than 100,000,000"
    sure = 100 / (1 + math.exp(-spent)) if spent < 30 else 100.0
    found = [
        "In plain words: somebody sees every update of the study, knows all other patients, and "
        "wants to find out whether one certain person was among those trained on. What was "
        f"released can multiply the odds by {odds} at the most; whoever held it for as likely as "
        f"not before can end up {min(sure, 99.99):.2f} % sure at the most. With a probability of "
        f"about δ = {delta:g} even this may fail. Smaller is safer. It is a bound for the worst "
        "case, not a measurement of what an attacker reaches."
    ]
    if spent > 5:
        found.append(
            f"ε = {spent:.1f} leaves, on paper, room for a near-certain answer to that one "
            "question. It still bounds the loss and counts every step, but it is no reason to call "
            "the model anonymous. Ask the lead for fewer rounds or more noise if that is not "
            "enough."
        )
    return tuple(found)


_NOT_COVERED = (
    "Not covered by ε: the exact counts on held-out patients inside the masked sum, choices made "
    "on the data by people before the study, and when this hospital answers. A patient treated at "
    "two of the hospitals pays at both. A round that has to be trained again is charged again, so "
    "the hospital's ledger may end above the figure here, never above its cap."
)


def limits(plan: StudyPlan, site: SiteConfig | None) -> tuple[str | Table, ...]:
    """The site's caps beside what the plan asks for."""
    if site is None:
        return ("No site file was given. Make the annex again with --site, at the hospital.",)
    caps, terms = site.caps, plan.privacy
    verdicts = {
        "allow_no_privacy": None if terms != "none" else caps.allow_no_privacy,
        "allow_shared_noise": caps.allow_shared_noise if is_distributed(plan) else None,
        "min_cohort": caps.min_cohort <= plan.schedule.quorum,
    }
    asks = {"min_cohort": f"{plan.schedule.quorum} hospitals in a sum (quorum)"}
    whole = study_mechanism(plan)
    if terms != "none" and whole is not None:
        spent = epsilon([whole], caps.max_delta)
        verdicts["max_epsilon"] = spent <= caps.max_epsilon
        verdicts["max_delta"] = terms.delta <= caps.max_delta
        asks["max_epsilon"] = f"ε = {spent:.3f} at δ = {caps.max_delta:g}"
        asks["max_delta"] = f"δ = {terms.delta:g}"
    words = {None: "-", True: "within", False: "beyond: this hospital refuses the plan"}
    rows = tuple(
        (
            f"caps.{key}",
            "not set" if value is None else _shown(value),
            asks.get(key, "-"),
            words[verdicts.get(key)],
        )
        for key, value in caps.model_dump(mode="json").items()
    )
    approvers = site.approval.approvers
    return (
        "The hospital's file outranks the plan. What its patients have spent in other studies is "
        "not counted here; primia-worker plan show counts it, and the worker refuses what would "
        "pass the cap.",
        Table(rows, ("limit", "set to", "the plan asks for", "verdict")),
        f"Approval by {approvers} {'person' if approvers == 1 else 'people'} "
        "(approval.approvers) before anything is trained.",
    )


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
