"""What a study means for one hospital's patients, in the order of a data protection assessment.

Everything stated follows from the plan, from the site file, or from what primia does always; what
only the hospital knows is left blank for its people.
"""

from __future__ import annotations

from primia.annex.document import BLANK, Document, Section, Table
from primia.annex.patient import alarms, limits, privacy
from primia.annex.standing import DP_SGD, MEASURES, RETENTION, RIGHTS, always_residual
from primia.config.plan import StudyPlan, plan_digest
from primia.config.site import SiteConfig
from primia.learning.terms import is_distributed


def annex(plan: StudyPlan, site: SiteConfig | None, *, made: str, version: str) -> Document:
    """The annex for a settled plan. site: the hospital's own file, or None for the lead's copy.

    made, version: when, and by which primia. Raises ConfigError as `noise_multiplier` does.
    """
    sections = [
        Section("What this is", (_WHAT, Table(_who(plan, made, version)))),
        *alarms(plan),
        Section("The processing", (Table(_processing(plan)),)),
        Section("Persons and categories of data", (Table(_data(site)),)),
        Section("What leaves the hospital, and what does not", _leaves(plan)),
        Section("Recipients", (Table(_recipients(plan), ("who", "learns", "and does not learn")),)),
        Section("What a patient risks: ε and δ", privacy(plan)),
        Section("This hospital's own limits", limits(plan, site)),
        Section("What is kept, where and for how long", (Table(RETENTION, _KEPT),)),
        Section("Technical and organisational measures", (Table(_measures(plan), _HOW),)),
        Section("Risks that remain", (Table(_residual(plan), _RISKS),)),
        Section("Rights of patients", (Table(RIGHTS),)),
        Section("Decision", _decision(plan, site)),
    ]
    return Document(
        title=f"Data protection impact: the study {plan.study}",
        subtitle="Annex to the hospital's own assessment, filled in from the signed plan",
        sections=tuple(sections),
    )


_KEPT = ("what", "where", "how long")
_HOW = ("measure", "how", "described in")
_RISKS = ("risk", "what limits it", "what remains")
_WHAT = (
    "This annex helps with an assessment under Art. 35 GDPR, or one of its kind. It is not the "
    "assessment and not legal advice. Grey fields are for people of the hospital; everything else "
    "follows from the plan named below, from this hospital's file, and from what primia does in "
    "every study. Another plan has another digest and needs another annex."
)


def _who(plan: StudyPlan, made: str, version: str) -> tuple[tuple[str, ...], ...]:
    return (
        ("Study", plan.study),
        ("Purpose, as the plan states it", plan.purpose or "not stated; ask the lead"),
        ("Plan (SHA-256)", plan_digest(plan)),
        ("Made", f"{made}, by primia {version}"),
        ("Controller, and its data protection officer", BLANK),
        ("Research lead, who runs the coordinator", BLANK),
        ("Relation of lead and hospitals (joint controllers, processor)", BLANK),
        ("Legal basis, and exception for health data", BLANK),
        ("Vote of the ethics committee", BLANK),
    )


def _processing(plan: StudyPlan) -> tuple[tuple[str, ...], ...]:
    model, training = plan.model, plan.training
    return (
        (
            "What is trained",
            f"a network ({model.name}) that tells {', '.join(model.classes)} on chest films, "
            f"scaled to {model.input_size} x {model.input_size} pixels",
        ),
        (
            "How long",
            f"{plan.rounds} rounds of {training.local_steps} step(s), and an evaluation of the "
            "last model",
        ),
        (
            "How often a patient is used",
            f"drawn at random with probability {training.patient_sampling_rate:g} in each step, "
            f"with at most {training.max_films_per_patient} films",
        ),
        ("Where", "on a machine of each hospital, on films that stay there"),
        ("Hospitals", f"{len(plan.sites)}: {_names(plan.sites)}"),
        ("Automated decisions about patients", "none; research use, not a medical device"),
    )


def _data(site: SiteConfig | None) -> tuple[tuple[str, ...], ...]:
    forms = {
        "csv": "a table of films (DICOM, PNG or JPEG), their labels and patients",
        "folder": "folders of films (DICOM, PNG or JPEG), one for each class",
        "npz": "an array file of films and labels",
    }
    rows = [
        ("Persons", "patients of this hospital whose films the data steward chose"),
        (
            "Data used",
            "chest films, one label each, and a patient id to keep a patient's films together; "
            "of a DICOM header only the tags that this needs",
        ),
        (
            "Kind",
            "health data, a special category (Art. 9 GDPR). A film without a name can still "
            "identify its patient",
        ),
        ("Not used", "names, dates, addresses, reports and all other DICOM tags"),
    ]
    if site is not None:
        held = f"{site.data.validation_fraction:.0%} of the patients test the model and are never "
        rows.insert(1, ("Source", forms[site.data.kind]))
        rows.append(("Held out", held + "trained on"))
    rows.append(("Number of patients and films", BLANK))
    return tuple(rows)


def _leaves(plan: StudyPlan) -> tuple[str | Table, ...]:
    leaves = [(line,) for line in what_leaves(plan)]
    stays = (
        "Never leave: films, parts of films, labels, patient ids or fingerprints of them, DICOM "
        "headers, an update that is not masked, and how many films were left out."
    )
    return (Table(tuple(("leaves", *row) for row in leaves)), stays)


def what_leaves(plan: StudyPlan) -> tuple[str, ...]:
    """Everything that leaves a hospital in a study of this plan, in plain words."""
    noise = "" if plan.privacy == "none" else ", with noise,"
    if is_distributed(plan):
        noise = ", with a share of the noise,"
    found = [
        f"each round one update of the weights{noise} that only the sum of at least "
        f"{plan.schedule.quorum} hospitals can be read of",
        "inside that sum, counts of how the round's model does on the films held out here; "
        "they are exact",
    ]
    if plan.aggregation.weighting == "patients":
        found.append("inside that sum, the number of patients trained on here; it is exact")
    if plan.evaluation.vote_tolerance is not None:
        found.append("inside that sum, a vote on the round's model")
    found.append("when this hospital answers, and that it takes part; no film, no id, no label")
    return tuple(found)


def _recipients(plan: StudyPlan) -> tuple[tuple[str, ...], ...]:
    groups = plan.aggregation.groups
    sums = f"the sums of {groups} groups of hospitals" if groups > 1 else "the sum over a round"
    return (
        (
            "coordinator (the lead)",
            f"{sums}, the models, the summed counts, who took part when",
            "a single hospital's update or counts",
        ),
        (
            "other hospitals",
            "each round's model, and by it the sum; each can take its own part out of it",
            "one other hospital's update, while two honest hospitals are in the sum",
        ),
        ("whoever gets a model or the report", "the model, the figures", "films, ids, updates"),
        ("makers of primia, clouds", "nothing: no telemetry, no service is called", "anything"),
    )


def _measures(plan: StudyPlan) -> tuple[tuple[str, ...], ...]:
    return MEASURES if plan.privacy == "none" else (DP_SGD, *MEASURES)


def _residual(plan: StudyPlan) -> tuple[tuple[str, ...], ...]:
    found = []
    if plan.privacy == "none":
        found.append(
            ("the model shows training patients", "nothing in this plan", "all of it: see above")
        )
    else:
        found.append(
            (
                "the model or its updates tell that a person was trained on",
                "noise, clipping and the ledger's cap",
                "what ε and δ leave",
            )
        )
    if plan.aggregation.weighting == "patients":
        found.append(
            (
                "number of training patients",
                "leaves inside the masked sum only",
                "the exact total over the hospitals becomes known",
            )
        )
    if plan.aggregation.groups > 1:
        found.append(
            (
                f"{plan.aggregation.groups} group sums instead of one",
                "three hospitals or more in each group",
                "this hospital hides among its group, not among all",
            )
        )
    if plan.evaluation.vote_tolerance is not None:
        found.append(
            (
                "votes on the model",
                "one bit, summed under the mask",
                "if all or none accept, this hospital's vote is known",
            )
        )
    noise = "none" if plan.privacy == "none" else plan.privacy.noise
    return (*found, *always_residual(len(plan.sites), noise))


def _decision(plan: StudyPlan, site: SiteConfig | None) -> tuple[str | Table, ...]:
    people = 2 if site is None else site.approval.approvers
    roles = ("data protection officer", "data steward")[: max(1, people)]
    return (
        f"Plan {plan_digest(plan)}. Whoever signs here records the decision also with "
        "primia-worker plan approve or plan refuse: paper alone starts nothing.",
        Table(
            tuple((role, BLANK, BLANK, BLANK) for role in (*roles, "on behalf of the controller")),
            ("role", "name", "approved or refused", "date, signature"),
        ),
    )


def _names(sites: tuple[str, ...]) -> str:
    if len(sites) <= 12:
        return ", ".join(sites)
    return f"{', '.join(sites[:10])} and {len(sites) - 10} more"
