"""Did a study keep its promises? Read from its result and the hospitals' ledgers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def broken_promises(
    result: Mapping[str, Any], charges: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[str]:
    """What is wrong, one line each; empty when all is well.

    result: result.json. charges: hospital → rows of its ledger.
    """
    wrong = []
    if result["state"] != "finished":
        wrong.append(f"the study is {result['state']}, not finished")
    wanted = list(range(1, result["plan"]["rounds"] + 1))
    committed = _committed(result)
    if [a["number"] for a in committed] != wanted:
        wrong.append(f"committed rounds: {[a['number'] for a in committed]}, expected: {wanted}")
    for site in result["plan"]["sites"]:
        wrong += _ledger_faults(site, result, charges.get(site, ()))
    return wrong


def _ledger_faults(
    site: str, result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> list[str]:
    """A round is charged once, and once more for each time it was trained anew."""
    wrong = []
    charged = Counter(row["round"] for row in rows)
    anew = Counter(a["number"] for a in result["attempts"] if a["kind"] == "retrain")
    for number, times in sorted(charged.items()):
        if times > 1 + anew[number]:
            wrong.append(f"{site}: round {number} is charged {times} times")
    for attempt in _committed(result):
        if site in attempt["contributors"] and not charged[attempt["number"]]:
            wrong.append(f"{site}: is in the sum of round {attempt['number']} without a charge")
    seen = next(s for s in result["sites"] if s["site"] == site)
    if seen["rounds_charged"] > len(charged):
        wrong.append(f"{site}: the report says {seen['rounds_charged']} rounds, the ledger fewer")
    return wrong


def _committed(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    done = [
        a for a in result["attempts"] if a["kind"] != "evaluate" and a["outcome"] == "committed"
    ]
    return sorted(done, key=lambda a: int(a["number"]))


def summary(
    result: Mapping[str, Any], charges: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[str]:
    """The figures for people."""
    trained = [a for a in result["attempts"] if a["kind"] != "evaluate"]
    aborted = sum(a["outcome"] == "aborted" for a in trained)
    scored = [m for m in result["models"] if m["scores"] is not None]
    lines = [f"{len(_committed(result))} rounds committed, {aborted} attempts aborted"]
    if scored:
        last = scored[-1]
        lines.append(f"AUC {last['scores']['auc']:.3f} of model {last['number']}")
    for site in result["sites"]:
        epsilon = "no privacy" if site["epsilon"] is None else f"ε = {site['epsilon']:.2f}"
        lines.append(
            f"{site['site']}: in {site['rounds_contributed']} sums, "
            f"{len(charges[site['site']])} charges in its ledger, {epsilon}"
        )
    return lines
