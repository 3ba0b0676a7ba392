"""What the attack on membership found, as a finding: verdict, figures, groups, the ROC.

Of a hospital's own films it names no count of patients but by a floor, rounds its rates, and
leaves out groups too small to be told; even so it is about that hospital's patients, and local.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from primia.audit.membership import Outcome
from primia.audit.membership_rates import (
    Found,
    Interval,
    Point,
    Trials,
    auc,
    point,
    surely_found,
)
from primia.audit.membership_scores import Bools
from primia.findings import Figure, Finding, Picture, Table, Verdict

ERROR = 1e-3
"""Chance that a verdict other than HELD is a false alarm, all its tests together."""

NEAR_CHANCE = 0.6
"""AUC that the upper limit must lie below for "held": with few trials no attack is ever found."""

SHOWN = 0.05  # of the intervals that are shown, 95 %
RATES = (0.01, 0.001)
UNKNOWN = "not measurable"  # from so few trials
SMALL_COUNT = 10  # patients of a hospital who were singled out; fewer are not counted
SMALL_GROUP = 30  # patients; of fewer nothing is told

_RATE_NAMES = {0.01: "1_percent", 0.001: "01_percent"}
_LIMITS = (
    "One site's training alone, undiluted by others, and its last model alone; a coordinator that "
    "keeps every round sees more. No better than chance means not found by this attack with this "
    "many trials. The intervals are about these patients under new trainings. In/out: share of "
    "films of members and of others that the model is right on; 9 in 10: patients of whom nine "
    "answers in ten were right."
)


@dataclass(frozen=True)
class Claim:
    """What the plan promises a patient."""

    epsilon: float
    delta: float


@dataclass(frozen=True, eq=False)
class Case:
    """Everything a finding is made from.

    attacked: the plan's outcome, or the exported model's. compared: shown beside it, the control
    first. claim: None where the plan has no privacy. groups: of the attacked pool's patients.
    """

    attacked: Outcome
    control: Outcome
    compared: tuple[Outcome, ...]
    claim: Claim | None
    groups: tuple[tuple[str, Bools], ...]
    method: str
    local: bool

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """In the order of the table."""
        return (self.control, *self.compared, self.attacked)


def better_than_chance(trials: Trials, error: float = ERROR) -> bool:
    """Whether any of the tests (AUC, each measurable rate, single patients) finds members."""
    points = [p for p in (point(trials, rate) for rate in RATES) if p is not None]
    found = surely_found(trials)
    each = error / (1 + len(points) + (found is not None))
    area = auc(trials, 2 * each)
    return (
        (area is not None and area.low > 0.5)
        or any(p.exceeds(0.0, 0.0, each) for p in points)
        or (found is not None and found.share(2 * each).low > found.chance)
    )


def beyond(trials: Trials, claim: Claim, error: float = ERROR) -> bool:
    """Whether members are found more often than (epsilon, delta) allows."""
    points = [p for p in (point(trials, rate) for rate in RATES) if p is not None]
    return any(p.exceeds(claim.epsilon, claim.delta, error / len(points)) for p in points)


def telling(case: Case) -> bool:
    """Whether "no better than chance" says something: what was learnt by heart was found, and the
    attack on the plan was tried often enough to leave no room for much, nor a trace at 95 %."""
    area = auc(case.attacked.trials, SHOWN)
    near = area is not None and area.high < NEAR_CHANCE
    clear = not better_than_chance(case.attacked.trials, SHOWN)
    return near and clear and better_than_chance(case.control.trials)


def verdict(case: Case) -> Verdict:
    """TOLD where nothing protects and nothing was found, or where the attack says nothing."""
    if case.claim is not None and beyond(case.attacked.trials, case.claim):
        return Verdict.REFUTED
    if better_than_chance(case.attacked.trials):
        return Verdict.FELL
    return Verdict.HELD if case.claim is not None and telling(case) else Verdict.TOLD


def finding(case: Case, *, seconds: float, made_at: float) -> Finding:
    """The finding of a case."""
    said = verdict(case)
    return Finding(
        command="attack membership",
        title="Membership: who was trained on",
        question=(
            f"Does the trained model tell whether a patient's films were among its training films "
            f"({case.method.upper()}, all films of a patient together)?"
        ),
        verdict=said,
        answer=_answer(case, said),
        limits=_LIMITS,
        figures=_figures(case),
        tables=(_table(case), _group_table(case)),
        pictures=(Picture("Members found against false alarms", _words(case), _roc(case)),),
        local=case.local,
        seconds=seconds,
        made_at=made_at,
    )


def _answer(case: Case, said: Verdict) -> str:
    area, control = _area(case, case.attacked), _area(case, case.control)
    found = f"AUC {area} where 0.5 is a guess"
    beside = f"the same attack reaches {control} on a model that learnt its films by heart"
    claim = ""
    if case.claim is not None:
        claim = f"epsilon {case.claim.epsilon:.3g} at delta {case.claim.delta:g}"
    sure = f"(chance of a false alarm: {ERROR:g})"
    match said:
        case Verdict.REFUTED:
            return f"Members are found more often than {claim} allows {sure}; {found}."
        case Verdict.FELL:
            protection = f"; {claim} is not exceeded" if claim else "; nothing protects them"
            return f"Members are found better than by chance {sure}: {found}{protection}; {beside}."
        case Verdict.HELD:
            return f"No better than chance: {found}; {beside}; {claim} is not exceeded."
    if telling(case):
        return f"No better than chance, though nothing protects the patients: {found}; {beside}."
    if better_than_chance(case.attacked.trials, SHOWN):
        return (
            f"Undecided: a trace at 95 %, not at a false alarm of {ERROR:g}: {found}; {beside}; "
            "settle it with more --targets."
        )
    return (
        f"Too few trials to say: {found}, and {beside}; use more patients, --targets or --budget."
    )


def _figures(case: Case) -> dict[str, Figure]:
    attacked = case.attacked
    figures: dict[str, Figure] = {
        "method": case.method,
        "references": attacked.references,
        "targets": len(attacked.trials.members),
        "trials_of_members_at_least": floor(attacked.trials.inside),
        "trials_of_others_at_least": floor(attacked.trials.outside),
        "error_rate": ERROR,
        "epsilon": None if case.claim is None else case.claim.epsilon,
        "delta": None if case.claim is None else case.claim.delta,
        "right_on_members": round(attacked.fit.inside, 2),
        "right_on_others": round(attacked.fit.outside, 2),
    }
    named = [("", attacked), ("control_", case.control)]
    named += [(o.recipe.replace(" ", "_") + "_", o) for o in case.compared]
    for prefix, outcome in named:
        figures |= _rates_of(case, outcome, prefix)
    sure = surely_found(attacked.trials)
    share = None if sure is None or _few(case, sure) else sure.share(SHOWN).value
    figures["surely_found"] = None if share is None else round(share, 1 + _digits(case))
    figures["surely_found_by_chance"] = None if sure is None else round(sure.chance, 4)
    worst = _worst(case)
    figures["worst_group"] = None if worst is None else worst[0]
    figures["worst_group_auc"] = None if worst is None else round(worst[1].value, _digits(case))
    return figures


def _rates_of(case: Case, outcome: Outcome, prefix: str) -> dict[str, Figure]:
    area = auc(outcome.trials, SHOWN)
    figures = _interval(prefix + "auc", area, _digits(case))
    for rate in RATES:
        at = point(outcome.trials, rate)
        tpr = None if at is None else at.tpr(SHOWN)
        figures |= _interval(f"{prefix}tpr_at_{_RATE_NAMES[rate]}", tpr, 1 + _digits(case))
    return figures


def _interval(name: str, found: Interval | None, digits: int) -> dict[str, Figure]:
    if found is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {
        name: round(found.value, digits),
        f"{name}_low": round(found.low, digits),
        f"{name}_high": round(found.high, digits),
    }


def _table(case: Case) -> Table:
    columns = ("model", "right in/out", "AUC (95 %)", "TPR at FPR 1 %", "at 0.1 %", "9 in 10")
    rows = []
    for outcome in case.outcomes:
        sure = surely_found(outcome.trials)
        rows.append(
            (
                outcome.recipe,
                f"{outcome.fit.inside:.2f}/{outcome.fit.outside:.2f}",
                _area(case, outcome),
                *(_rate(point(outcome.trials, rate)) for rate in RATES),
                _surely(case, sure),
            )
        )
    if case.claim is not None:
        allowed = [min(1.0, _allowed(case.claim, rate)) for rate in RATES]
        words = [f"{share:.1%}" for share in allowed]
        rows.append((f"epsilon {case.claim.epsilon:.3g} allows", "", "", *words, ""))
    return Table(columns, tuple(rows))


def _few(case: Case, sure: Found) -> bool:
    """Whether the share would count a few patients of a hospital, who were singled out."""
    return case.local and 0 < sure.patients < SMALL_COUNT


def _surely(case: Case, sure: Found | None) -> str:
    if sure is None:
        return UNKNOWN
    luck = f"(luck {sure.chance:.1%})"
    if _few(case, sure):
        return f"under {SMALL_COUNT} patients {luck}"
    return f"{sure.share(SHOWN).value:.1%} {luck}"


def _allowed(claim: Claim, rate: float) -> float:
    return math.exp(min(claim.epsilon, 700.0)) * rate + claim.delta


def _area(case: Case, outcome: Outcome) -> str:
    area, digits = auc(outcome.trials, SHOWN), _digits(case)
    if area is None:
        return UNKNOWN
    return f"{area.value:.{digits}f} ({area.low:.{digits}f} to {area.high:.{digits}f})"


def _rate(at: Point | None) -> str:
    if at is None:
        return UNKNOWN
    tpr = at.tpr(SHOWN)
    return f"{tpr.value:.1%} ({tpr.low:.1%} to {tpr.high:.1%})"


def _digits(case: Case) -> int:
    return 2 if case.local else 3


def floor(count: int) -> int:
    """The largest of 1, 2, 5, 10, 20, 50... that is not above `count`; 0 for none."""
    if count < 1:
        return 0
    power: int = 10 ** (len(str(count)) - 1)
    return max(step * power for step in (1, 2, 5) if step * power <= count)


def _telling_groups(case: Case) -> Iterator[tuple[str, Interval | None]]:
    """Each group's AUC; None where it is too small to be told."""
    for name, patients in case.groups:
        few = int(patients.sum()) < SMALL_GROUP
        yield name, None if few else auc(case.attacked.trials.of(patients), SHOWN)


def _worst(case: Case) -> tuple[str, Interval] | None:
    told = [(name, area) for name, area in _telling_groups(case) if area is not None]
    return max(told, key=lambda group: group[1].value, default=None)


def _group_table(case: Case) -> Table:
    worst = _worst(case)
    rows = []
    for name, area in _telling_groups(case):
        digits = _digits(case)
        words = f"too few to say (under {SMALL_GROUP} patients)"
        if area is not None:
            words = f"{area.value:.{digits}f} ({area.low:.{digits}f} to {area.high:.{digits}f})"
        mark = "worst" if worst is not None and name == worst[0] else ""
        rows.append((name, words, mark))
    return Table((f"{case.attacked.recipe}, group", "AUC (95 %)", ""), tuple(rows))


def _words(case: Case) -> str:
    told = "; ".join(f"{o.recipe}: AUC {_area(case, o)}" for o in case.outcomes)
    return f"Share of members found against share of others taken for members, log axes. {told}."


def _roc(case: Case) -> bytes:
    """The curves on log axes, where few false alarms are to be seen; PNG."""
    from matplotlib.figure import Figure as Drawing

    lowest = min(1e-2, *(1 / max(1, o.trials.outside) for o in case.outcomes))
    drawing = Drawing(figsize=(5.6, 4.6), dpi=120, layout="constrained")
    axes = drawing.subplots()
    x = np.geomspace(lowest, 1, 200)
    axes.plot(x, x, color="#8a939c", linestyle=":", label="chance")
    if case.claim is not None:
        bound = np.minimum(1.0, [_allowed(case.claim, float(rate)) for rate in x])
        axes.plot(x, bound, color="#1f2933", linestyle="--", label="what epsilon allows")
    colours = ("#d55e00", "#0072b2", "#00785a", "#cc79a7")
    for outcome, colour in zip(case.outcomes, colours, strict=False):
        false, true = roc(outcome.trials)
        axes.step(false, true, where="post", color=colour, label=outcome.recipe)
    axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.2))
    axes.set(xlabel="others taken for members", ylabel="members found")
    axes.grid(color="#e4e8ec", which="major")
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    file = io.BytesIO()
    drawing.savefig(file, format="png")
    return file.getvalue()


def roc(trials: Trials) -> tuple[Sequence[float], Sequence[float]]:
    """False and true positive rates as the threshold falls; ties are passed in one step."""
    order = np.argsort(-trials.scores.ravel(), kind="stable")
    scores, members = trials.scores.ravel()[order], trials.members.ravel()[order]
    last = np.append(np.diff(scores) != 0, True)
    true = np.cumsum(members)[last] / max(1, trials.inside)
    false = np.cumsum(~members)[last] / max(1, trials.outside)
    return [0.0, *false.tolist()], [0.0, *true.tolist()]
