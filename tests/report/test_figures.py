from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from primia.report.curves import RocCurves, intervals_figure, quality_figures, roc_figure
from primia.report.figures import auc_figure, epsilon_figure, loss_figure
from tests.report.conftest import make_record
from tests.report.evidence_examples import site_quality

LINE = ((0.0, 0.0), (0.1, 0.8), (1.0, 1.0))


def _texts(svg: str) -> list[str]:
    return [t.text or "" for t in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_figures_are_well_formed_svg_with_text_as_text() -> None:
    for svg in (
        auc_figure({0: 0.5, 1: 0.8}, best=1),
        loss_figure({0: 1.1, 1: 0.4}),
        epsilon_figure({1: 2.0, 2: 2.8}, planned=4.0),
    ):
        assert svg.startswith("<svg")
        assert "rounds trained" in _texts(svg)


def test_best_model_and_planned_epsilon_are_named() -> None:
    assert "best: 0.800" in _texts(auc_figure({0: 0.5, 1: 0.8}, best=1))
    assert "whole plan: 4.00" in _texts(epsilon_figure({1: 2.0}, planned=4.0))


def test_one_point_and_no_point_can_be_drawn() -> None:
    assert auc_figure({1: 0.3}, best=None)
    assert loss_figure({1: 0.0})
    assert epsilon_figure({}, planned=None)


def test_roc_has_a_panel_for_each_class_and_an_auc_for_each_model() -> None:
    models = [
        RocCurves("best", (LINE,) * 5, (0.91, 0.92, 0.93, 0.94, 0.95)),
        RocCurves("last", (LINE, LINE, LINE, LINE, ()), (0.81, 0.82, 0.83, 0.84, 0.85)),
    ]
    texts = _texts(roc_figure(models, [f"class {i}" for i in range(5)]))
    assert {f"class {i}" for i in range(5)} <= set(texts)
    assert {"best: 0.910", "last: 0.840"} <= set(texts)


def test_a_label_is_never_read_as_a_formula_or_as_markup() -> None:
    label = '$\\frac{1}$ <b id="x">'
    assert label in _texts(roc_figure([RocCurves("m", (LINE,), (0.9,))], [label]))


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_no_text_of_a_figure_is_cut_off_above_or_below(classes: int) -> None:
    found = site_quality(make_record())
    quality = replace(found.quality, classes=found.quality.classes[:classes])
    models = [RocCurves("best", (LINE,) * classes, (0.9,) * classes)]
    for svg in (
        *quality_figures("a", quality, binary=False).values(),
        roc_figure(models, ["normal"] * classes),
        intervals_figure([("hospital-a", [("the study", found.quality.auc)])]),
        auc_figure({0: 0.5, 1: 0.8}, best=1),
    ):
        root = ET.fromstring(svg)
        height = float(root.attrib["viewBox"].split()[3])
        for text in root.iter("{http://www.w3.org/2000/svg}text"):
            size = re.search(r"font-size: ([\d.]+)px", text.attrib["style"])
            baseline = re.search(r"rotate\(-0 [\d.-]+ ([\d.-]+)\)", text.attrib["transform"])
            if size and baseline:
                assert 0.8 * float(size[1]) <= float(baseline[1]), text.text
                assert float(baseline[1]) <= height - 0.25 * float(size[1]), text.text


def test_calibration_is_points_without_a_line_between_them() -> None:
    quality = site_quality(make_record()).quality
    root = ET.fromstring(quality_figures("a", quality, binary=False)["calibration"])
    lines = [
        p.attrib for p in root.iter("{http://www.w3.org/2000/svg}path") if "clip-path" in p.attrib
    ]
    drawn = [p for p in lines if "stroke-width: 1.8" in p["style"]]
    assert not drawn
    assert sum(1 for _ in root.iter("{http://www.w3.org/2000/svg}use")) > 30
