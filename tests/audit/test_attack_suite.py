"""The quick set that a report carries."""

from __future__ import annotations

from primia.audit.suite import findings_for_report
from primia.findings import Verdict
from primia.settle import settled_digest
from tests.audit.scene import small_plan


def test_a_plan_without_privacy_has_no_findings() -> None:
    assert findings_for_report(small_plan().model_copy(update={"privacy": "none"})) == ()


def test_the_quick_set_runs_on_a_plan_of_another_size_and_holds() -> None:
    """False alarms: 0.002, those of its two verdicts that luck decides."""
    plan = small_plan(noise_multiplier=1.2)
    plan = plan.model_copy(update={"model": plan.model.model_copy(update={"input_size": 48})})
    heard: list[str] = []
    findings = findings_for_report(plan, on_step=heard.append)
    assert {f.command for f in findings} >= {"attack invert", "attack imprint", "attack labels"}
    attacks = [f for f in findings if f.command.startswith("attack ")]
    assert all(f.verdict is Verdict.HELD for f in attacks), [f.answer for f in attacks]
    assert not any(f.local for f in findings)
    assert heard
    assert all("28 pixels; the plan's have 48" in f.limits for f in attacks)
    assert any("at 28 px" in row[0] for f in attacks for t in f.tables for row in t.rows)
    assert {f.plan for f in findings} == {settled_digest(plan)}
