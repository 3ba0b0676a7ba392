"""All that one report shows, as plain data; `to_json` and `from_json` are inverse.

The page, the model card and `report.json` are three forms of one `Report`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from primia import findings as found
from primia.documents import parse
from primia.errors import DataError
from primia.findings import Finding, Verdict
from primia.report import quality as measured
from primia.report import record as recorded
from primia.report.quality import Quality, SiteQuality
from primia.report.record import StudyRecord
from primia.report.words import clean

SCHEMA = "primia-report/1"
MAX_BYTES = 64 << 20  # of one file
MAX_FINDINGS = 40
MAX_SITES = 1000


@dataclass(frozen=True)
class Reconstruction:
    """How likely anybody can name a patient's film among so many candidates, at most.

    plan: after the whole plan; sites: after what each site was charged for.
    """

    among: int
    plan: float
    sites: Mapping[str, float]


@dataclass(frozen=True)
class Prices:
    """What the accountant says; the report prices nothing itself. Empty without privacy.

    epsilon_by_round: ε after a site has taken part in so many rounds; a round that is not in it
        gets no point in the figure.
    """

    epsilon_by_round: Mapping[int, float] = field(default_factory=dict)
    reconstruction: tuple[Reconstruction, ...] = ()


@dataclass(frozen=True)
class Report:
    """A study, and what attacks, audits and hospitals found about its models.

    pooled: quality on the films of all sites, from their masked sums, by number of the model.
    local: holds exact counts or pictures of one hospital's films, so it stays there.
    """

    record: StudyRecord
    prices: Prices = Prices()
    pooled: Mapping[int, Quality] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    quality: tuple[SiteQuality, ...] = ()
    local: bool = False

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """Findings against a claim or a protection: what a reader has to see first."""
        return tuple(f for f in self.findings if f.verdict in (Verdict.REFUTED, Verdict.FELL))


def with_evidence(
    report: Report, findings: Sequence[Finding] = (), quality: Sequence[SiteQuality] = ()
) -> Report:
    """`report` with more evidence; of the same attack or the same site the newer one stands.

    Unless the report is local, pictures of a hospital's own films are left out, and a site's
    quality enters in the form that may be handed on. Raises DataError for a finding that tried
    another plan, for quality of another study or model and for too much of anything,
    PolicyRefused where a site has too few patients.
    """
    digests = {m.digest for m in report.record.models}
    for site in quality:
        if site.plan != report.record.plan_digest or site.model not in digests:
            raise DataError(
                f"the quality file of {site.site!r} speaks of a plan or model that is not in this "
                "study's result.json; measure again with a model of this export"
            )
    for finding in findings:
        if finding.plan and finding.plan != report.record.plan_digest:
            raise DataError(
                f"the finding of `{clean(finding.command)}` tried another plan "
                f"({finding.plan[:12]}…) than this study's ({report.record.plan_digest[:12]}…); "
                "run it again with --plan and the plan.json of this export"
            )
    if not report.local:
        findings = [f.without_pictures() if f.local else f for f in findings]
        quality = [measured.shareable(q) for q in quality]
    by_title: dict[tuple[str, str], Finding] = {}
    for finding in (*report.findings, *findings):
        there = by_title.setdefault((finding.command, finding.title), finding)
        if finding.made_at >= there.made_at:
            by_title[finding.command, finding.title] = finding
    by_site: dict[tuple[str, str], SiteQuality] = {}
    for site in (*report.quality, *quality):
        known = by_site.setdefault((site.site, site.model), site)
        if site.made_at >= known.made_at:
            by_site[site.site, site.model] = site
    if len(by_title) > MAX_FINDINGS or len(by_site) > MAX_SITES:
        raise DataError(
            f"more than {MAX_FINDINGS} findings or {MAX_SITES} quality files; leave some out"
        )
    return replace(report, findings=tuple(by_title.values()), quality=tuple(by_site.values()))


def to_json(report: Report) -> str:
    """`report` as indented JSON text."""
    data = {
        "schema": SCHEMA,
        "local": report.local,
        "record": json.loads(recorded.to_json(report.record)),
        "prices": asdict(report.prices),
        "pooled": {str(n): asdict(q) for n, q in report.pooled.items()},
        "findings": [json.loads(found.to_json(f)) for f in report.findings],
        "quality": [json.loads(measured.to_json(q)) for q in report.quality],
    }
    return json.dumps(data, indent=2, allow_nan=False)


def from_json(text: str) -> Report:
    """Read what `to_json` wrote. Raises DataError when it is something else."""
    try:
        raw = parse(text, MAX_BYTES)
        if raw["schema"] != SCHEMA or not isinstance(raw["local"], bool):
            raise ValueError("another schema")
        if len(raw["findings"]) > MAX_FINDINGS or len(raw["quality"]) > MAX_SITES:
            raise ValueError("too many findings or quality files")
        return Report(
            record=recorded.from_json(json.dumps(raw["record"])),
            prices=_prices(raw["prices"]),
            pooled={int(n): measured.quality_from_dict(q) for n, q in raw["pooled"].items()},
            findings=tuple(found.from_json(json.dumps(f)) for f in raw["findings"]),
            quality=tuple(measured.from_json(json.dumps(q)) for q in raw["quality"]),
            local=raw["local"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise DataError(
            f"not a {SCHEMA} file ({err}); write it again with `primia report`"
        ) from err


def _prices(raw: dict[str, Any]) -> Prices:
    return Prices(
        {int(n): _number(e) for n, e in raw["epsilon_by_round"].items()},
        tuple(
            Reconstruction(
                int(r["among"]),
                _number(r["plan"]),
                {str(s): _number(b) for s, b in r["sites"].items()},
            )
            for r in raw["reconstruction"]
        ),
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)
