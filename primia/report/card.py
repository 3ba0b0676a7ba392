"""The model card: the report's facts about the model, short, in the order of Mitchell et al. 2019.

A section of the page, and `model-card.md` beside the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from primia.report import plan_words, view
from primia.report.record import ModelRecord
from primia.report.report import Report
from primia.report.words import (
    MAX_PROSE,
    NONE,
    bound_text,
    clean,
    delta_text,
    epsilon_text,
    estimate_text,
    look_up,
    names_text,
    number_text,
    time_text,
)

AUTHORS = "to be stated by the authors"
RESEARCH = "Research use. Not a medical device: it must not be used to diagnose or treat anybody."


@dataclass(frozen=True)
class Part:
    """One heading of the card; rows are (name, text), cleaned."""

    heading: str
    rows: tuple[tuple[str, str], ...]


def parts(report: Report) -> tuple[Part, ...]:
    """The card of the report's model."""
    return (
        Part("Model", _model(report)),
        Part("Intended use", _use(report)),
        Part("Data", _data(report)),
        Part("Quality", _quality(report)),
        Part("Privacy", _privacy(report)),
        Part("Attacks and audits", _findings(report)),
        Part("Caveats", _caveats(report)),
    )


def markdown(report: Report) -> str:
    """The card as Markdown; text from outside stays text."""
    lines = [f"# Model card: {_escaped(clean(report.record.study))}"]
    if report.local:
        lines.append("\n**It holds figures of one hospital's own films and stays there.**")
    for part in parts(report):
        lines += [f"\n## {part.heading}\n", "| | |", "|---|---|"]
        lines += [f"| {_escaped(name)} | {_escaped(text)} |" for name, text in part.rows]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Text without meaning in Markdown or in the HTML that it may hold."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", text)


def _model(report: Report) -> tuple[tuple[str, str], ...]:
    record = report.record
    best, last = view.best_and_last(record)
    size = look_up(record.plan, "model.input_size")
    channels = look_up(record.plan, "model.channels")
    times = [a.closed_at for a in record.committed if a.closed_at is not None]
    rows = [
        ("Network", f"{_named(report, 'model.name')}, {record.parameters:,} weights"),
        ("Input", f"one film, {clean(str(size))} pixels square, {clean(str(channels))} channel"),
        ("Output", "one logit a class, in this order: " + names_text(view.class_names(record))),
        ("Trained by", f"{names_text(view.site_names(record))}; {clean(record.state)}"),
        ("Trained until", time_text(max(times)) if times else NONE),
        ("Plan, SHA-256", clean(record.plan_digest)),
    ]
    rows += [(f"{n} model, SHA-256", _digest(m)) for n, m in (("Best", best), ("Last", last)) if m]
    return (
        *rows,
        (
            "Files",
            "model-best.safetensors, model-last.safetensors: tensors by name; what builds the "
            "network again stands in the header",
        ),
        ("Licence, owner, contact", AUTHORS),
    )


def _digest(model: ModelRecord) -> str:
    return f"{clean(model.digest)} (round {model.number})"


def _named(report: Report, key: str) -> str:
    value = look_up(report.record.plan, key)
    return clean(str(value)) if value else NONE


def _use(report: Report) -> tuple[tuple[str, str], ...]:
    return (
        ("Purpose, as signed", _named(report, "purpose")),
        ("Limits of use", RESEARCH),
        ("Out of scope", "other views, body parts, devices and ages than those trained on"),
        ("Users and place in care", AUTHORS),
    )


def _data(report: Report) -> tuple[tuple[str, str], ...]:
    best, last = view.best_and_last(report.record)
    shown = best or last
    tested = NONE
    if shown is not None and shown.scores is not None:
        sites = len(shown.scores.sites)
        tested = f"{shown.scores.films:,} films of {sites} of the hospitals that trained it"
    return (
        ("Training", "films of the hospitals above; how many stays with them"),
        ("Split", "by patient, at each hospital: no validation patient is a training patient"),
        ("Evaluation", f"{tested}; no hospital outside the study, no separate test set"),
        ("Labels, eligibility, demography", AUTHORS),
    )


def _quality(report: Report) -> tuple[tuple[str, str], ...]:
    rows = []
    best, last = view.best_and_last(report.record)
    for name, model in (("best", best), ("last", last)):
        if model is not None and model.scores is not None:
            s = model.scores
            rows.append(
                (
                    f"All hospitals, {name} model",
                    f"AUC {number_text(s.auc)}, balanced accuracy "
                    f"{number_text(s.balanced_accuracy)}, {s.films:,} films",
                )
            )
    for site in report.quality:
        text = f"AUC {estimate_text(site.quality.auc)}, by {clean(site.quality.unit)}"
        for other in site.comparisons:
            text += f"; against {clean(other.name)} {estimate_text(other.difference, sign=True)}"
        rows.append((f"At {clean(site.site)}", text))
    return tuple(rows) or (("Figures", "no model has been evaluated yet"),)


def _privacy(report: Report) -> tuple[tuple[str, str], ...]:
    record = report.record
    if not plan_words.is_private(record):
        return (("Differential privacy", "NONE. Nothing bounds what the model remembers."),)
    spent = epsilon_text(view.highest_epsilon(record))
    rows = [
        ("Unit", "one patient with all films at one hospital; add or remove one"),
        ("Spent at most", f"ε = {spent} at δ = {delta_text(record.delta)}, as charged by rounds"),
        ("Who adds the noise", plan_words.noise_in_words(record)),
    ]
    for bound in report.prices.reconstruction:
        worst = max(bound.sites.values(), default=bound.plan)
        rows.append(
            (f"Naming a film among {bound.among}", f"succeeds with {bound_text(worst)} at most")
        )
    return tuple(rows)


def _findings(report: Report) -> tuple[tuple[str, str], ...]:
    rows = tuple(
        (clean(f.title), f"{f.verdict.value.upper()}: {clean(f.answer, MAX_PROSE)}")
        for f in report.findings
    )
    return rows or (("None", "no attack and no audit was run on this model"),)


def _caveats(report: Report) -> tuple[tuple[str, str], ...]:
    rows = [("Read first", clean(note)) for note in report.record.notes]
    return (
        *rows,
        ("Selection", "the best model was chosen by the films that its figures come from"),
        ("Fairness", "no subgroup of patients was measured"),
        ("Whole report", "report.html and report.json beside this card"),
    )
