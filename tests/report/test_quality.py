from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.errors import DataError, PolicyRefused
from primia.report.quality import (
    FLOOR,
    ClassQuality,
    Comparison,
    Estimate,
    OperatingPoint,
    Quality,
    ReliabilityBin,
    SiteQuality,
    _error,
    across_sites,
    from_json,
    shareable,
    to_json,
)

finite = st.floats(0, 1)
for number in (float, int):
    st.register_type_strategy(number, finite if number is float else st.integers(0, 2**53))


def found(patients: int = 123, of_class: int = 47) -> SiteQuality:
    """A site's file with figures that have more digits than may leave."""
    some = Estimate(0.912345, 0.854321, 0.951234)
    point = OperatingPoint("p ≥ 0.5", False, 0.51234, some, some, some, some, (40, 3, 7, 73))
    curve = tuple((i / 57, (i / 57) ** 0.5) for i in range(58))
    bins = (
        ReliabilityBin(0.0, 0.1, 0.0512, 0.0481, 60, 40),
        ReliabilityBin(0.1, 0.2, 0.1512, 0.2481, 3, 3),
        ReliabilityBin(0.2, 0.3, 0.2512, 0.2481, 12, 9),
    )
    one = ClassQuality(
        "pneumonia", of_class, of_class, 0.38211, some, some, 0.1234, 0.0567, curve, curve, bins,
        (point,),
    )  # fmt: skip
    other = replace(one, name="normal", patients=patients - of_class, films=patients - of_class)
    quality = Quality(
        "patient", "by patient", patients, patients, some, some, some, 0.2468, 0.0567, 0.0432,
        ((73, 3), (7, 40)), (other, one),
    )  # fmt: skip
    return SiteQuality(
        site="hospital-a",
        study="demo",
        plan="a" * 64,
        model="b" * 64,
        quality=quality,
        comparisons=(Comparison("here alone", False, some, Estimate(0.0512, -0.0123, 0.1234)),),
        design_effect=1.23456,
        replicates=2000,
        seed=1,
        shared=False,
        made_at=1.0,
    )


@settings(max_examples=25)
@given(st.builds(SiteQuality, schema=st.just("primia-quality/1")))
def test_a_file_reads_back_as_what_was_written(quality: SiteQuality) -> None:
    assert from_json(to_json(quality)) == quality


def break_at(raw: Any, path: str, value: Any) -> None:
    *way, last = path.split(".")
    for key in way:
        raw = raw[int(key) if key.isdigit() else key]
    raw[last] = value


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("schema", "primia-quality/2", "schema"),
        ("extra", 1, "extra"),
        ("quality.films", "many", "quality.films"),
        ("quality.films", True, "quality.films"),
        ("quality.auc.value", [0.9], "quality.auc.value"),
        ("quality.classes.0.roc", [[0.0, 0.1, 0.2]], "roc[0]"),
        ("quality.classes.0.operating.0.counts", [1, 2, 3], "counts"),
        ("quality.classes.0.name", None, "name"),
        ("shared", 1, "shared"),
        ("quality.films", -5, "quality.films"),
        ("quality.auc.value", 2.0, "quality.auc.value"),
        ("quality.classes.0.roc", [[0.0, -0.1]], "roc[0][1]"),
        ("quality.brier", 2.5, "quality.brier"),
        ("comparisons.0.difference.low", -1.5, "difference.low"),
        ("design_effect", -1.0, "design_effect"),
    ],
)
def test_anything_else_is_refused_and_the_place_named(path: str, value: Any, says: str) -> None:
    raw = json.loads(to_json(found()))
    break_at(raw, path, value)
    with pytest.raises(DataError) as refused:
        from_json(json.dumps(raw))
    assert says in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "NaN", "[" * 100_000, '{"schema": 3}'])
def test_text_that_is_no_such_file_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        from_json(text)


def test_a_figure_that_is_not_finite_is_refused() -> None:
    with pytest.raises(DataError):
        from_json(to_json(found()).replace("0.38211", "Infinity"))


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [n for v in value for n in numbers(v)]
    return [value] if isinstance(value, float) else []


def test_what_is_handed_on_has_two_digits_and_no_small_count() -> None:
    raw = json.loads(to_json(shareable(found())))
    assert raw["shared"] is True
    raw.pop("made_at")
    assert raw["quality"].pop("auc") == {"value": 0.912, "low": 0.854, "high": 0.951}
    assert raw.pop("comparisons")[0]["difference"] == {"value": 0.051, "low": -0.012, "high": 0.123}
    curves = [c.pop("roc") + c.pop("pr") for c in raw["quality"]["classes"]]
    assert all(n == round(n, 2) for n in numbers(raw))
    assert all(len(c) == 2 * 21 and all(y == round(y, 2) for _, y in c) for c in curves)
    assert raw["quality"]["films"] == raw["quality"]["patients"] == 120
    assert raw["quality"]["confusion"] is None
    for part in raw["quality"]["classes"]:
        assert part["operating"][0]["counts"] is None
        assert [b["films"] for b in part["reliability"]] == [60]


def test_a_class_of_few_patients_is_left_out_with_all_that_would_tell_of_it() -> None:
    whole = found()
    few = replace(whole.quality.classes[1], name="viral", films=9, patients=FLOOR - 1)
    three = replace(whole.quality, classes=(*whole.quality.classes, few))
    left = shareable(replace(whole, quality=three))
    assert [c.name for c in left.quality.classes] == ["normal", "pneumonia"]
    assert left.quality.auc == Estimate(None)
    assert left.comparisons == ()
    # 1 less the shares of the others would be the share of the few.
    assert left.quality.brier is None
    for part in left.quality.classes:
        assert part.prevalence is None
        assert part.pr == part.reliability == ()
        assert part.average_precision == part.operating[0].ppv == part.operating[0].npv
        assert part.average_precision == Estimate(None)
        assert part.operating[0].sensitivity.value == 0.91
    assert shareable(left) == left


def test_a_file_that_calls_itself_rounded_is_rounded_all_the_same() -> None:
    assert shareable(replace(found(), shared=True)) == shareable(found())
    with pytest.raises(PolicyRefused):
        shareable(replace(found(15, 7), shared=True))


@pytest.mark.parametrize(("patients", "of_class"), [(15, 7), (100, 9), (100, 91)])
def test_too_few_patients_are_not_handed_on_at_all(patients: int, of_class: int) -> None:
    with pytest.raises(PolicyRefused):
        shareable(found(patients, of_class))


def test_a_predictive_value_of_few_films_is_left_out() -> None:
    whole = found()
    first = whole.quality.classes[0]
    few = replace(first.operating[0], counts=(5, 4, 42, 72))
    classes = (replace(first, operating=(few,)), whole.quality.classes[1])
    left = shareable(replace(whole, quality=replace(whole.quality, classes=classes)))
    point = left.quality.classes[0].operating[0]
    assert point.ppv == Estimate(None)
    assert point.npv.value == 0.91


def test_what_was_handed_on_once_may_be_rounded_again() -> None:
    once = shareable(found(130, 50))
    assert shareable(once) == once


def at(site: str, auc: Estimate, effect: float | None = None) -> SiteQuality:
    one = found()
    return replace(one, site=site, design_effect=effect, quality=replace(one.quality, auc=auc))


def test_the_mean_of_sites_is_surer_than_each_and_no_site_counts_for_more() -> None:
    sites = [at(s, Estimate(0.8, 0.7, 0.872093)) for s in "abcd"]
    both = across_sites(sites, Estimate(0.81, 0.79, 0.83))
    assert both.sites == ("a", "b", "c", "d")
    assert both.mean.value == pytest.approx(0.8)
    one, four = (_error(e) for e in (sites[0].quality.auc, both.mean))
    assert four == pytest.approx(one / 2)
    wide = across_sites([*sites[:3], at("d", Estimate(0.6, 0.3, 0.84))], Estimate(0.8))
    assert wide.mean.value == pytest.approx(0.75)
    assert _error(wide.mean) > 1.4 * four


def test_an_interval_by_film_is_widened_by_the_largest_design_effect_and_never_narrowed() -> None:
    by_film = Estimate(0.81, 0.79, 0.828571)
    some = Estimate(0.8, 0.7, 0.87)
    wider = across_sites([at("a", some, 2.0), at("b", some, 4.0)], by_film).pooled
    assert wider.value == 0.81
    assert _error(wider) == pytest.approx(2 * _error(by_film))
    same = across_sites([at("a", some, 0.5)], by_film).pooled
    assert _error(same) == pytest.approx(_error(by_film))


def test_without_intervals_of_sites_nothing_is_said_by_patient() -> None:
    none = across_sites([at("a", Estimate(0.9))], Estimate(0.81, 0.79, 0.83))
    assert (none.sites, none.mean) == ((), Estimate(None))
    assert none.pooled == Estimate(0.81)


def test_a_site_without_an_error_makes_no_interval_longer_than_all() -> None:
    perfect = at("a", Estimate(1.0, 0.83, 1.0), 1.0)
    found = across_sites([perfect], Estimate(1.0, 0.95, 1.0))
    assert found.mean.value == found.mean.high == 1.0
    assert 0.8 < found.mean.low < 1
