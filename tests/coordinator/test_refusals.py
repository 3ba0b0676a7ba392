"""A refused caller leaves a trace, and cannot fill the disk with it."""

from __future__ import annotations

from coordinator.refusals import MOST_CALLERS, Refusals
from coordinator.troubles import MOST, SCHEMA, TroubleBook
from primia.storage.audit_log import AuditLog, read
from primia.storage.database import Database


def test_one_line_a_minute_and_caller_and_nothing_is_forgotten(tmp_path):
    now = 0.0
    audit = AuditLog(tmp_path / "audit.jsonl")
    troubles = TroubleBook(Database(tmp_path / "t.db", [SCHEMA]), lambda: 5.0)
    refusals = Refusals(audit, troubles, clock=lambda: now)
    for _ in range(100):
        refusals.note("primia://site/berlin", "struck")
    refusals.note("primia://site/munich", "expired")
    refusals.note("primia://site/munich", "no such role")
    now = 61.0
    refusals.note("primia://site/berlin", "struck")
    found = [(x.fields["caller"][-6:], x.fields["left_out"]) for x in read(audit.path)[0]]
    assert found == [("berlin", 0), ("munich", 0), ("munich", 0), ("berlin", 99)]
    kept = {(t.who[-6:], t.reason): t.times for t in troubles.all()}
    assert kept == {("berlin", "struck"): 101, ("munich", "no such role"): 2}, "for `why`"


def test_ever_new_names_do_not_fill_memory_or_disk(tmp_path):
    audit = AuditLog(tmp_path / "audit.jsonl")
    troubles = TroubleBook(Database(tmp_path / "t.db", [SCHEMA]), lambda: 5.0)
    refusals = Refusals(audit, troubles, clock=lambda: 1.0)
    for i in range(MOST_CALLERS + 50):
        refusals.note(f"ipv4:10.0.{i // 250}.{i % 250}", "no")
    assert audit.head().lines == MOST_CALLERS
    assert len(refusals._known) == MOST_CALLERS
    kept = [t.who for t in troubles.all()]
    assert len(kept) == MOST
    assert kept[-1] == f"ipv4:10.0.{(MOST_CALLERS - 1) // 250}.{(MOST_CALLERS - 1) % 250}"
