"""The terms of a plan that decide, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from primia.report.record import StudyRecord
from primia.report.words import clean, delta_text, epsilon_text, look_up


def is_private(record: StudyRecord) -> bool:
    """Whether the plan asks for noise. What is not plainly a privacy section counts as none."""
    return isinstance(record.plan.get("privacy"), Mapping)


def plan_in_words(record: StudyRecord) -> tuple[tuple[str, str], ...]:
    """The terms that decide, one (name, sentence) each; a term that the plan lacks is left out."""
    model = f"{{model.name}}, {record.parameters:,} weights; films of {{model.input_size}} pixels"
    rows = [
        ("Purpose", "{purpose}"),
        ("Model", model),
        ("Rounds", "{rounds} of training, then one evaluation of the last model"),
        (
            "Who must take part",
            "{schedule.quorum} sites or more in every sum; others are waited for "
            "{schedule.grace_s} s, local training may take {schedule.deadline_s} s",
        ),
        (
            "Local work in a round",
            "{training.local_steps} "
            + ("step" if look_up(record.plan, "training.local_steps") == 1 else "steps")
            + ", learning rate {training.learning_rate}, momentum {training.momentum}",
        ),
        (
            "Sampling",
            "in each step every patient is drawn with probability {training.patient_sampling_rate}"
            ", at most {training.max_films_per_patient} films of a patient; sums are divided by "
            "the constant {training.expected_patients}",
        ),
        ("Views of each film", "{training.augmentations}, averaged before clipping"),
        ("Weights that learn", "{model.trainable}"),
        *_privacy_in_words(record),
        ("Masking", _masking_in_words(record)),
        ("Length of an update", "scaled down to L2 norm {aggregation.update_norm} by each site"),
        ("Server step", _server_in_words(record)),
        ("Evaluation", "scores counted in {evaluation.histogram_bins} bins, summed under masks"),
        (
            "Votes on each model",
            "a site rejects a model whose AUC on its own films is more than "
            "{evaluation.vote_tolerance} below the best it has seen; without a majority the study "
            "returns to the last accepted model",
        ),
    ]
    if (look_up(record.plan, "aggregation.groups") or 1) > 1:
        rows.append(
            (
                "Groups",
                "{aggregation.groups} sums, each over a group of 3 sites or more, and of their "
                "means the trimmed mean; each group's sum becomes known to the coordinator, so a "
                "site hides among its group alone",
            )
        )
    filled = ((name, _fill(text, record.plan)) for name, text in rows)
    return tuple((name, text) for name, text in filled if text)


_CLIPPING = {
    "flat": "clipped to",
    "per-layer": "clipped, each layer to its share, to",
    "automatic": "scaled to nearly",
}


def _privacy_in_words(record: StudyRecord) -> list[tuple[str, str]]:
    if not is_private(record):
        return [("Privacy", "none: updates carry no noise")]
    noise = "Gaussian noise with multiplier {privacy.noise_multiplier} times that norm"
    if look_up(record.plan, "privacy.noise_multiplier") is None:
        noise = "Gaussian noise calibrated to ε = {privacy.target_epsilon} over all rounds"
    how = _CLIPPING[look_up(record.plan, "privacy.clipping") or "flat"]
    clip = f"a patient's gradient is {how} L2 norm {{privacy.clip_norm}}; {noise}"
    rows = [("Privacy", clip), ("Who adds the noise", _noise_form(record))]
    if record.planned_epsilon is not None:
        price = f"ε = {epsilon_text(record.planned_epsilon)} for a site that is in every round"
        rows.append(("Price of the plan", f"{price}, at δ = {delta_text(record.delta)}"))
    return rows


def _masking_in_words(record: StudyRecord) -> str:
    """How an update becomes integers, and what hides them."""
    rounded = "rounded"
    if look_up(record.plan, "aggregation.rounding") == "stochastic":
        rounded = "rounded at random"
    if look_up(record.plan, "privacy.noise") == "distributed":
        made = f"sums of gradients are {rounded} to steps that the noise is counted in"
    else:
        made = f"updates are {rounded} within ±{{aggregation.encoding_range}}"
    cipher = look_up(record.plan, "aggregation.mask_cipher")
    mask = f" ({cipher})" if cipher else ""
    return (
        f"{made}, {{aggregation.wire_bits}} bits a coordinate, and leave a site only under its "
        f"mask{mask}; weights: {{aggregation.weighting}}"
    )


def _server_in_words(record: StudyRecord) -> str:
    momentum = ", momentum {server.momentum}" if look_up(record.plan, "server.momentum") else ""
    return "{server.name}, learning rate {server.learning_rate}" + momentum


def colluding_sites(record: StudyRecord) -> int | None:
    """How many sites may pool what they know, where they share the noise; else None."""
    if look_up(record.plan, "privacy.noise") != "distributed":
        return None
    found = look_up(record.plan, "privacy.colluding_sites")
    return found if isinstance(found, int) else None


def noise_in_words(record: StudyRecord) -> str:
    """Whom the guarantee relies on."""
    return _fill(_noise_form(record), record.plan)


def _noise_form(record: StudyRecord) -> str:
    if look_up(record.plan, "privacy.noise") != "distributed":
        return "each site, all of it, before anything leaves: the guarantee relies on nobody else"
    return (
        "all sites together, each a share, so that their sum holds it once: the guarantee holds "
        "against the coordinator together with up to {privacy.colluding_sites} of the sites; a "
        "site's own share alone does not protect its patients"
    )


def _fill(text: str, plan: Mapping[str, Any]) -> str:
    """Put the plan's values into `text`; empty when one of them is not there."""
    parts = text.split("{")
    out = parts[0]
    for part in parts[1:]:
        key, rest = part.split("}", 1)
        value = look_up(plan, key)
        if value is None or value == "":
            return ""
        out += (f"{value:,g}" if isinstance(value, float) else clean(str(value))) + rest
    return out
