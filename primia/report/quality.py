"""How good a model is on one set of films: of one site, or of the masked sums over all of them.

Plain frozen data; `to_json` and `from_json` are inverse for what a site writes about its own films.
That file stays at the hospital. `shareable` makes the form that people may decide to hand on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any

from primia.documents import parse, typed
from primia.errors import DataError, PolicyRefused

SCHEMA = "primia-quality/1"
MAX_BYTES = 16 << 20  # of one file

FLOOR = 10
"""Patients that a figure must rest on, on either side of it, to be in a file that is handed on."""

_DIGITS = 2  # of every figure in such a file,
_AUC_DIGITS = 3  # but of the AUC over all classes, whose sum over the sites is public to more
_GRID = 20  # steps of a curve in such a file
_Z = 1.959964  # 95 %


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; None where there is nothing to tell it from."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class OperatingPoint:
    """One class against the rest at one threshold: called positive from `threshold` on.

    name: "p ≥ 0.5" for one that was fixed beforehand, else what it was chosen for.
    chosen_here: read off the ROC of these same films, so its figures flatter.
    counts: true positives, false positives, false negatives, true negatives, in films.
    """

    name: str
    chosen_here: bool
    threshold: float  # probability of the class
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    counts: tuple[int, int, int, int] | None


@dataclass(frozen=True)
class ReliabilityBin:
    """Films whose predicted probability of the class lies in one stretch."""

    low: float
    high: float
    predicted: float  # mean probability
    observed: float  # share that is of the class
    films: int | None
    patients: int | None = None  # of these films


@dataclass(frozen=True)
class ClassQuality:
    """One class against the rest.

    ece: expected calibration error of this class's probability, over `reliability`.
    roc: (false, true positive rate), rising. pr: (recall, precision), recall rising.
    films, patients: of this class.
    """

    name: str
    films: int | None
    patients: int | None
    prevalence: float | None  # share of films; the average precision of guessing
    auc: Estimate
    average_precision: Estimate
    brier: float | None
    ece: float | None
    roc: tuple[tuple[float, float], ...]
    pr: tuple[tuple[float, float], ...]
    reliability: tuple[ReliabilityBin, ...]
    operating: tuple[OperatingPoint, ...]


@dataclass(frozen=True)
class Quality:
    """One model on one set of films.

    unit: what the intervals take as independent, "patient" or "film". With films they are too
        narrow where patients have several films.
    method: how figures and intervals were made, a sentence or two, fit to be printed below them.
    auc: two classes: of the second one; more: the unweighted mean over the classes.
    brier: summed over the classes, 0 to 2. ece: mean over the classes.
    top_label_ece: of the most likely class's probability; None where it cannot be known.
    confusion: row = true class, column = most likely class.
    """

    unit: str
    method: str
    films: int | None
    patients: int | None
    auc: Estimate
    accuracy: Estimate
    balanced_accuracy: Estimate
    brier: float | None
    ece: float | None
    top_label_ece: float | None
    confusion: tuple[tuple[int, ...], ...] | None
    classes: tuple[ClassQuality, ...]


@dataclass(frozen=True)
class Comparison:
    """The study's model against one that was trained at this site alone.

    difference: AUC of the study's model minus `auc`, by the same resampled patients.
    private: whether the local model was trained with the plan's noise.
    """

    name: str
    private: bool
    auc: Estimate
    difference: Estimate


@dataclass(frozen=True, kw_only=True)
class SiteQuality:
    """What one hospital found on its own validation films.

    plan, model: SHA-256, as in result.json. design_effect: variance of the AUC by patient over that
    by film. shared: rounded and without small counts, see `shareable`. made_at: since 1970.
    """

    site: str
    study: str
    plan: str
    model: str
    quality: Quality
    comparisons: tuple[Comparison, ...]
    design_effect: float | None
    replicates: int
    seed: int
    shared: bool
    made_at: float
    limits: str = (
        "Films of one hospital. The local models were trained once each, with the plan's steps "
        "and rates; like the study's best model, each is the best of its rounds on films that it "
        "is tested on. The intervals tell how much hangs on which patients were tested, not how "
        "much on the luck of a training. None of these figures is differentially private."
    )
    schema: str = SCHEMA


def to_json(found: SiteQuality) -> str:
    """`found` as indented JSON text."""
    return json.dumps(asdict(found), indent=2, allow_nan=False)


def from_json(text: str) -> SiteQuality:
    """Read what `to_json` wrote. Raises DataError when it is something else."""
    try:
        raw = parse(text, MAX_BYTES)
        if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
            raise ValueError("another schema")
        found: SiteQuality = typed(SiteQuality, raw)
        _in_range(found.quality, "quality")
        for number, other in enumerate(found.comparisons):
            _in_range(other.auc, f"comparisons[{number}].auc")
            _in_range(other.difference, f"comparisons[{number}].difference", least=-1.0)
        _in_range((found.replicates, found.seed), "replicates or seed")
        if not (found.design_effect or 0.0) >= 0:
            raise ValueError("design_effect is below 0")
        return found
    except ValueError as err:
        raise DataError(
            f"not a file of `primia-worker quality`: {err}; write it again with that command"
        ) from err


def _in_range(value: Any, where: str, *, least: float = 0.0) -> None:
    """Counts are 0 at least; figures from `least` to 1 (Brier scores, of several classes, to 2).

    Raises ValueError with the place of one that is not.
    """
    if is_dataclass(value):
        for field in fields(value):
            _in_range(getattr(value, field.name), f"{where}.{field.name}", least=least)
    elif isinstance(value, tuple):
        for number, part in enumerate(value):
            _in_range(part, f"{where}[{number}]", least=least)
    elif isinstance(value, float):
        if not least <= value <= (2 if where.endswith(".brier") else 1):
            raise ValueError(f"{where} = {value:g} is out of range")
    elif isinstance(value, int) and value < 0:
        raise ValueError(f"{where} = {value} is below 0")


def quality_from_dict(raw: Any) -> Quality:
    """Read a quality from parsed JSON. Raises ValueError when it is something else."""
    found: Quality = typed(Quality, raw, "quality")
    return found


def shareable(found: SiteQuality) -> SiteQuality:
    """The form that may be handed on: figures of two digits (the AUC: three), no small counts.

    A class with fewer patients than `FLOOR`, or with fewer beside it, is left out, and so are
    stretches of the reliability curve with fewer, and predictive values of fewer films. Confusion
    counts are left out whole: rates and class sizes would tell a small one from the others. Where
    a class is left out, so is all that tells the shares of the others, whose rest it is. Curves
    are drawn on a grid of 20 steps. A file that was made so stays as it is, by the same rules:
    that it says so of itself counts for nothing.

    Raises PolicyRefused when the patients are too few for any figure.
    """
    quality = found.quality
    patients = quality.patients or 0
    kept = tuple(_rounded_class(c) for c in quality.classes if _may_leave(c, patients))
    if len(kept) < min(2, len(quality.classes)) or patients < 2 * FLOOR:
        raise PolicyRefused(
            f"a file for others needs {FLOOR} test patients of two classes at least; "
            "keep this one here, or test on more films (data.validation_fraction)"
        )
    whole = len(kept) == len(quality.classes)
    if not whole:
        kept = tuple(map(_without_shares, kept))
    nothing = Estimate(None)
    return replace(
        found,
        shared=True,
        design_effect=_round(found.design_effect),
        comparisons=tuple(
            replace(
                c,
                auc=_rounded(c.auc, _AUC_DIGITS),
                difference=_rounded(c.difference, _AUC_DIGITS),
            )
            for c in found.comparisons
            if whole
        ),
        quality=replace(
            quality,
            films=_floored(quality.films),
            patients=_floored(quality.patients),
            auc=_rounded(quality.auc, _AUC_DIGITS) if whole else nothing,
            accuracy=_rounded(quality.accuracy),
            balanced_accuracy=_rounded(quality.balanced_accuracy) if whole else nothing,
            brier=_round(quality.brier) if whole else None,
            ece=_round(quality.ece) if whole else None,
            top_label_ece=_round(quality.top_label_ece),
            confusion=None,
            classes=kept,
        ),
    )


@dataclass(frozen=True)
class AcrossSites:
    """What the files of several sites say together.

    mean: of the sites' own AUCs, each site as one, with an interval by patient; the sites count as
        given, not as drawn from others. pooled: the AUC on all films, with its interval by film
        widened by the largest design effect that a site found.
    """

    sites: tuple[str, ...]
    mean: Estimate
    pooled: Estimate


def across_sites(found: Sequence[SiteQuality], pooled: Estimate) -> AcrossSites:
    """Intervals by patient, from the sites' own. pooled: the AUC on all films, by film.

    Sites without an AUC and its interval are left out; without any, nothing is said.
    """
    told = [s for s in found if _error(s.quality.auc) is not None]
    names = tuple(s.site for s in told)
    values = [s.quality.auc.value or 0.0 for s in told]
    errors = [_error(s.quality.auc) or 0.0 for s in told]
    mean = Estimate(None)
    if told:
        error = math.hypot(*errors) / len(told)
        mean = _on_log_odds(math.fsum(values) / len(told), error)
    effects = [s.design_effect for s in told if s.design_effect is not None]
    by_film = _error(pooled)
    widened = Estimate(pooled.value)
    if effects and by_film is not None and pooled.value is not None:
        widened = _on_log_odds(pooled.value, by_film * math.sqrt(max(1.0, *effects)))
    return AcrossSites(names, mean, widened)


def _error(found: Estimate) -> float | None:
    """The standard error behind an interval on the log-odds scale; None where there is none."""
    if found.value is None or found.low is None or found.high is None:
        return None
    if not 0 < found.low <= found.value <= found.high < 1:
        return (found.high - found.low) / (2 * _Z)
    reach = _log_odds(found.high) - _log_odds(found.low)
    return reach / (2 * _Z) * found.value * (1 - found.value)


def _on_log_odds(value: float, error: float) -> Estimate:
    if not 0 < value < 1:
        return Estimate(value, max(0.0, value - _Z * error), min(1.0, value + _Z * error))
    reach = _Z * error / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-(_log_odds(value) + side * reach))) for side in (-1, 1))
    return Estimate(value, low, high)


def _log_odds(p: float) -> float:
    return math.log(p / (1 - p))


def _may_leave(found: ClassQuality, patients: int) -> bool:
    """Whether enough patients have the class, and enough have not."""
    return FLOOR <= (found.patients or 0) <= patients - FLOOR


def _rounded_class(found: ClassQuality) -> ClassQuality:
    return replace(
        found,
        films=_floored(found.films),
        patients=_floored(found.patients),
        prevalence=_round(found.prevalence),
        auc=_rounded(found.auc),
        average_precision=_rounded(found.average_precision),
        brier=_round(found.brier),
        ece=_round(found.ece),
        roc=_on_grid(found.roc),
        pr=_on_grid(found.pr),
        reliability=tuple(
            replace(
                b,
                predicted=round(b.predicted, _DIGITS),
                observed=round(b.observed, _DIGITS),
                films=_floored(b.films),
                patients=_floored(b.patients),
            )
            for b in found.reliability
            if min(b.films or 0, FLOOR if b.patients is None else b.patients) >= FLOOR
        ),
        operating=tuple(_rounded_point(p) for p in found.operating),
    )


def _without_shares(found: ClassQuality) -> ClassQuality:
    """Rates within the class and within the others alone: no share of it among all films."""
    nothing = Estimate(None)
    return replace(
        found,
        prevalence=None,
        average_precision=nothing,
        brier=None,
        pr=(),
        reliability=(),
        ece=None,
        operating=tuple(replace(p, ppv=nothing, npv=nothing) for p in found.operating),
    )


def _rounded_point(point: OperatingPoint) -> OperatingPoint:
    # Without counts it was rounded before, and what may not leave is gone.
    tp, fp, fn, tn = point.counts or (FLOOR, FLOOR, FLOOR, FLOOR)
    nothing = Estimate(None)
    return replace(
        point,
        threshold=round(point.threshold, _DIGITS),
        sensitivity=_rounded(point.sensitivity),
        specificity=_rounded(point.specificity),
        ppv=_rounded(point.ppv) if tp + fp >= FLOOR else nothing,
        npv=_rounded(point.npv) if fn + tn >= FLOOR else nothing,
        counts=None,
    )


def _on_grid(curve: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """The curve's value at even steps of x: the last one at or before each."""
    found = []
    for i in range(_GRID + 1):
        x = i / _GRID
        before = [y for at, y in curve if at <= x + 1e-12]
        if before:
            found.append((round(x, 4), round(before[-1], _DIGITS)))
    return tuple(found)


def _floored(count: int | None) -> int | None:
    """A count to the ten below; None under the floor."""
    return None if count is None or count < FLOOR else count // 10 * 10


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)


def _rounded(found: Estimate, digits: int = _DIGITS) -> Estimate:
    ends = (found.value, found.low, found.high)
    return Estimate(*(None if e is None else round(e, digits) for e in ends))
