"""Findings and a hospital's quality as they might come with the study of `conftest`."""

from __future__ import annotations

import io
import math

from PIL import Image

from primia.findings import Finding, Picture, Table, Verdict
from primia.report.quality import (
    ClassQuality,
    Comparison,
    Estimate,
    OperatingPoint,
    Quality,
    ReliabilityBin,
    SiteQuality,
)
from primia.report.record import StudyRecord


def png(width: int = 28, height: int = 28) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).save(out, "PNG")
    return out.getvalue()


def finding(
    verdict: Verdict = Verdict.HELD,
    *,
    title: str = "Gradient inversion",
    command: str = "attack invert",
    local: bool = False,
) -> Finding:
    return Finding(
        command=command,
        title=title,
        question="Can the coordinator rebuild a film from one update?",
        verdict=verdict,
        answer="The plain update gives the film away; under the plan it is a guess.",
        limits="One film, one attack. A better attack may do more.",
        figures={"rank": 131, "psnr": 7.9},
        tables=(
            Table(
                ("update", "rank of 256", "PSNR, dB", "SSIM"),
                (("plain", "1", "36.8", "0.992"), ("as planned", "131", "7.9", "0.003")),
            ),
        ),
        pictures=(Picture("Four updates", "The film, and what each update gives away.", png()),),
        local=local,
        seconds=12.4,
        made_at=1_772_600_100.0,
    )


def class_quality(name: str, auc: float, films: int = 83) -> ClassQuality:
    some = Estimate(auc, auc - 0.041, auc + 0.025)
    power = 1 / auc - 1
    roc = tuple((i / 40, (i / 40) ** power if i else 0.0) for i in range(41))
    pr = tuple((i / 40, 0.97 - 0.5 * (i / 40) ** 4) for i in range(41))
    bins = tuple(
        ReliabilityBin(i / 10, (i + 1) / 10, i / 10 + 0.05, 0.05 + 0.9 * (i / 10) ** 1.3, 20)
        for i in range(10)
    )
    points = tuple(
        OperatingPoint(name, chosen, threshold, some, some, some, some, (70, 12, 13, 179))
        for name, chosen, threshold in (
            ("p ≥ 0.5", False, 0.5),
            ("sensitivity ≥ 0.95", True, 0.21),
        )
    )
    return ClassQuality(
        name, films, films, 0.3, some, Estimate(auc - 0.1), 0.09, 0.043, roc, pr, bins, points
    )


def site_quality(record: StudyRecord, site: str = "hospital-a") -> SiteQuality:
    drop = 0.01 * (ord(site[-1]) - ord("a"))
    auc = 0.893 - drop
    some = Estimate(auc, auc - 0.04, auc + 0.03)
    names = record.plan["model"]["classes"]
    quality = Quality(
        unit="patient",
        method="Intervals by drawing patients with replacement, 2,000 times.",
        films=274,
        patients=249,
        auc=some,
        accuracy=some,
        balanced_accuracy=some,
        brier=0.231,
        ece=0.041,
        top_label_ece=0.038,
        confusion=((71, 9, 3), (9, 104, 7), (6, 3, 62)),
        classes=tuple(class_quality(n, auc - 0.03 * i) for i, n in enumerate(names)),
    )
    alone = Estimate(auc - 0.052, auc - 0.1, auc - 0.01)
    gain = Estimate(0.052, 0.012, 0.094)
    return SiteQuality(
        site=site,
        study=record.study,
        plan=record.plan_digest,
        model=record.models[7].digest,
        quality=quality,
        comparisons=(
            Comparison("this hospital alone, without privacy", False, alone, gain),
            Comparison(
                "this hospital alone, with the plan's privacy", True,
                Estimate(auc - 0.15, auc - 0.21, auc - 0.1), Estimate(0.15, 0.09, 0.2),
            ),
        ),
        design_effect=1.2,
        replicates=2000,
        seed=1,
        shared=False,
        made_at=math.floor(1_772_600_200.0),
    )  # fmt: skip
