"""What a ledger says to a data protection officer: studies, ε spent and left, withdrawals, chain.

Without a fingerprint in it: it may leave the hospital, if its people want it to.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from primia.privacy.accounting import epsilon
from primia.privacy.chain import Row
from primia.privacy.ledger import Ledger
from primia.privacy.mechanism import merge

UNIT = "one patient with all films at this hospital; neighbours: that patient added or removed"


def statement(ledger: Ledger, *, cap: float, delta: float, time: str, site: str) -> dict[str, Any]:
    """The content, as plain data. ε is None where there is no bound.

    cap, delta: the site's own. time, site: when and by whom it is made. Raises StateError for a
    ledger whose chain does not hold.
    """
    head = ledger.verify()
    spent = ledger.spent(delta)
    rows = ledger.rows()
    withdrawn = [row.time for row in ledger.entries() if row.withdrawn is not None]
    return {
        "form": "primia ledger statement v1",
        "site": site,
        "made": time,
        "unit": UNIT,
        "delta": delta,
        "epsilon_cap": cap,
        "epsilon_spent": _finite(spent),
        "epsilon_left": None if math.isinf(spent) else max(0.0, cap - spent),
        "studies": [_study(plan, rows, delta) for plan in dict.fromkeys(r.plan for r in rows)],
        "withdrawals": withdrawn,
        "chain": {"rows": head.rows, "head": head.digest},
    }


def _study(plan: str, rows: Sequence[Row], delta: float) -> dict[str, Any]:
    own = [row for row in rows if row.plan == plan]
    known = [row.mechanism for row in own if row.mechanism is not None]
    return {
        "study": own[0].study,
        "plan": plan,
        "sites": sorted({row.site for row in own if row.site is not None}),
        "releases": len(own),
        "first": own[0].time,
        "last": own[-1].time,
        "cohorts": len({row.cohort for row in own}),
        "epsilon": _finite(epsilon(known, delta)) if len(known) == len(own) else None,
        "mechanisms": [
            {
                "kind": type(m).__name__,
                "sampling_rate": m.sampling_rate,
                "noise_multiplier": m.noise_multiplier,
                "steps": m.steps,
            }
            for m in merge(known)
        ],
        "without_privacy": len(own) - len(known),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def to_html(content: dict[str, Any], signed_by: str, signature: str) -> str:
    """The statement as a page for print, with nothing loaded from elsewhere."""
    bound = "no bound: something was released without differential privacy"
    spent, left = content["epsilon_spent"], content["epsilon_left"]
    facts = [
        ("Hospital", content["site"]),
        ("Made", content["made"]),
        ("Unit of privacy", content["unit"]),
        ("ε spent by the patient who has shown most", bound if spent is None else f"{spent:.3f}"),
        ("ε left", "none" if left is None else f"{left:.3f} of {content['epsilon_cap']:g}"),
        ("δ", f"{content['delta']:g}"),
        ("Patients withdrawn", _withdrawals(content["withdrawals"])),
        ("Chain", f"{content['chain']['rows']} rows, ends with {content['chain']['head']}"),
        ("Signed by the certificate (SHA-256)", signed_by),
        ("Signature over statement.json", signature),
    ]
    studies = "".join(
        _cells(
            "td",
            study["study"] or "-",
            study["plan"][:16] + "…",
            str(study["releases"]),
            f"{study['first']} to {study['last']}",
            _mechanisms(study),
            "no bound" if study["epsilon"] is None else f"{study['epsilon']:.3f}",
        )
        for study in content["studies"]
    )
    head = _cells("th", "Study", "Plan", "Releases", "When", "What", "ε alone")
    listed = "".join(_cells("td", f"{name}", str(value)) for name, value in facts)
    return _PAGE.format(facts=listed, head=head, studies=studies)


def _withdrawals(times: list[str]) -> str:
    if not times:
        return "none"
    return (
        f"{len(times)}, the last {times[-1]}. They are in no later release; models made before stay"
    )


def _mechanisms(study: dict[str, Any]) -> str:
    found = [
        f"{m['steps']} noisy sums, patients drawn at rate {m['sampling_rate']:g}, noise multiplier "
        f"{m['noise_multiplier']:g}" + (" (shared)" if m["kind"] == "DistributedDpSgd" else "")
        for m in study["mechanisms"]
    ]
    if study["without_privacy"]:
        found.append(f"{study['without_privacy']} updates without differential privacy")
    return "; ".join(found)


def _cells(tag: str, *values: str) -> str:
    cells = "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values)
    return f"<tr>{cells}</tr>\n"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Privacy ledger statement</title>
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse; width: 100%; margin: 1em 0 }}
td, th {{ text-align: left; vertical-align: top; padding: .3em .6em; border-top: 1px solid #ccc;
  overflow-wrap: anywhere }}
</style></head><body>
<h1>Privacy ledger statement</h1>
<table>{facts}</table>
<h2>What was released</h2>
<table>{head}{studies}</table>
<p>ε adds up over a patient's studies by composition, not by addition. A patient who was in one
study only has spent that study's ε.</p>
</body></html>
"""
