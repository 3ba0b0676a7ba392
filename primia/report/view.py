"""What a reader is shown, as plain rows and words; `html` and `terminal` only set it.

Text from outside (a site's reason, a label) passes `clean` here, once, for both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from primia.report.record import Attempt, ModelRecord, Scores, StudyRecord

MAX_TEXT = 300  # characters of one reason; a hospital writes it, so it has a limit
NONE = "–"

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class AttemptRow:
    """One attempt, with the scores of the model it made and the ε spent when it committed."""

    label: str  # "3", or "evaluation"
    attempt: Attempt
    tries: int  # attempts at this round so far, this one included
    seconds: float | None
    scores: Scores | None
    epsilon: float | None


@dataclass(frozen=True)
class Cell:
    """One site in one attempt. state: in | lost | void | open | none."""

    state: str
    text: str
    reason: str


@dataclass(frozen=True)
class GridRow:
    """One attempt in the participation grid."""

    label: str
    attempt: int
    outcome: str
    cells: tuple[Cell, ...]


def clean(text: str) -> str:
    """`text` fit for a page and a terminal: one line, bounded, nothing that steers the display.

    Control, bidirectional and other unprintable characters become a replacement mark, so that a
    site's reason can neither move a cursor nor reverse the words around it.
    """
    printable = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    return printable if len(printable) <= MAX_TEXT else printable[: MAX_TEXT - 1] + "…"


def is_private(record: StudyRecord) -> bool:
    """Whether the plan asks for noise. What is not plainly a privacy section counts as none."""
    return isinstance(record.plan.get("privacy"), Mapping)


def site_names(record: StudyRecord) -> tuple[str, ...]:
    """Every site that the record speaks of, sorted."""
    names = {s.site for s in record.sites}
    for attempt in record.attempts:
        names |= {*attempt.contributors, *(a.site for a in attempt.absent)}
    return tuple(sorted(names))


def class_names(record: StudyRecord) -> tuple[str, ...]:
    """Names of the classes as the plan gives them; numbers where it gives none."""
    named = tuple(str(c) for c in look_up(record.plan, "model.classes") or ())
    shown = max((len(m.scores.confusion) for m in record.models if m.scores), default=0)
    return named if len(named) >= shown else tuple(f"class {i}" for i in range(shown))


def best_and_last(record: StudyRecord) -> tuple[ModelRecord | None, ModelRecord | None]:
    """The best model and the last one that was evaluated and not rejected; None without one."""
    kept = (m for m in record.models if m.scores and m.accepted is not False)
    scored = sorted(kept, key=lambda m: m.number)
    best = next((m for m in scored if m.number == record.best), None)
    return best, (scored[-1] if scored else None)


def highest_epsilon(record: StudyRecord) -> float | None:
    """The largest ε of any site so far; None without differential privacy."""
    return max((s.epsilon for s in record.sites if s.epsilon is not None), default=None)


def attempt_rows(
    record: StudyRecord, epsilon_by_round: Mapping[int, float]
) -> tuple[AttemptRow, ...]:
    """All attempts in the order they were opened."""
    scores = {m.number: m.scores for m in record.models}
    tries: dict[int, int] = {}
    rows = []
    for attempt in sorted(record.attempts, key=lambda a: a.attempt):
        tries[attempt.number] = tries.get(attempt.number, 0) + 1
        made = attempt.kind != "evaluate" and attempt.outcome == "committed"
        closed = attempt.closed_at
        rows.append(
            AttemptRow(
                label=str(attempt.number) if attempt.kind != "evaluate" else "evaluation",
                attempt=attempt,
                tries=tries[attempt.number],
                seconds=None if closed is None else max(0.0, closed - attempt.opened_at),
                scores=scores.get(attempt.number) if made else None,
                epsilon=epsilon_by_round.get(attempt.number) if made else None,
            )
        )
    return tuple(rows)


def votes_text(attempt: Attempt) -> str:
    """Who accepted the model that the attempt started from, of its contributors."""
    return NONE if attempt.votes is None else f"{attempt.votes}/{len(attempt.contributors)}"


def return_text(attempt: Attempt) -> str:
    """What a vote without a majority led to; empty where there was none."""
    if attempt.returned_to is None:
        return ""
    votes = f"{attempt.votes} of {len(attempt.contributors)} sites accepted"
    return f"returned to the model of round {attempt.returned_to}: {votes}"


def participation(record: StudyRecord, sites: tuple[str, ...]) -> tuple[GridRow, ...]:
    """Who took part in which attempt: one row for each attempt, one cell for each of `sites`."""
    return tuple(
        GridRow(
            label=row.label,
            attempt=row.attempt.attempt,
            outcome=row.attempt.outcome,
            cells=tuple(_cell(row.attempt, site) for site in sites),
        )
        for row in attempt_rows(record, {})
    )


def _cell(attempt: Attempt, site: str) -> Cell:
    for absence in attempt.absent:
        if absence.site == site:
            return Cell("lost", clean(absence.phase), clean(absence.reason))
    match attempt.outcome:
        case "committed" if site in attempt.contributors:
            return Cell("in", "✓", "in the sum")
        case "aborted":
            return Cell("void", "○", "not lost, but the attempt released nothing")
        case "open":
            return Cell("open", "…", "the attempt is open")
        case _:
            return Cell("none", NONE, "not part of this attempt")


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
    rows = [("Privacy", clip), ("Who adds the noise", _noise_in_words(record))]
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


def _noise_in_words(record: StudyRecord) -> str:
    """Whom the guarantee relies on."""
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


def look_up(plan: Mapping[str, Any], dotted: str) -> Any:
    """The value at `dotted` in the plan, or None."""
    value: Any = plan
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def epsilon_text(epsilon: float | None) -> str:
    """ε with two decimals, rounded up: a privacy loss is never shown smaller than it is."""
    if epsilon is None:
        return NONE
    # 1e-9 forgives the last bit of a product, so that 8.0 does not become 8.01.
    return f"{math.ceil(epsilon * 100 - 1e-9) / 100:.2f}" if math.isfinite(epsilon) else "∞"


def delta_text(delta: float | None) -> str:
    """δ as a person writes it: 1×10⁻⁴."""
    if delta is None:
        return NONE
    mantissa, exponent = f"{delta:.6e}".split("e")
    return f"{float(mantissa):g}×10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def number_text(value: float | None, digits: int = 3) -> str:
    """A figure with `digits` decimals, or a dash."""
    return NONE if value is None else f"{value:.{digits}f}"


def duration_text(seconds: float | None) -> str:
    """A time span in the two units that matter."""
    if seconds is None:
        return NONE
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def time_text(seconds: float | None) -> str:
    """Seconds since 1970 as a date and time in UTC."""
    if seconds is None:
        return NONE
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
