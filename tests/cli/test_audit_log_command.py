"""`primia audit-log`: what an auditor runs, offline."""

from __future__ import annotations

import csv
import json

import pytest
from typer.testing import CliRunner

from primia.cli.main import app
from primia.errors import ConfigError, StateError
from primia.storage.audit_log import AuditLog


@pytest.fixture
def logs(tmp_path):
    """A site's and a coordinator's log that have countersigned each other once."""
    site, lead = AuditLog(tmp_path / "site" / "audit.jsonl"), AuditLog(tmp_path / "lead.jsonl")
    site.path.parent.mkdir()
    site.append("enrolled", site="north", certificate="ab", authority="cd")
    mine = site.append("started", version="1")
    theirs = lead.append(
        "heads_countersigned", site="north", attempt=1, ledger=0, ledger_digest="0" * 64,
        audit=mine.lines, audit_digest=mine.digest, signature="00",
    )  # fmt: skip
    site.append(
        "head_countersigned", attempt=1, ledger=0, ledger_digest="0" * 64, audit=mine.lines,
        audit_digest=mine.digest, coordinator=theirs.lines, coordinator_digest=theirs.digest,
        signature="00",
    )  # fmt: skip
    return site, lead


def run(*arguments):
    return CliRunner().invoke(app, ["audit-log", *map(str, arguments)])


def test_a_good_log_verifies_by_file_and_by_folder(logs):
    for path in (logs[0].path, logs[0].path.parent):
        done = run("verify", path)
        assert done.exit_code == 0, done.output
        assert "3 lines, the chain holds" in done.output
    said = json.loads(run("verify", logs[0].path, "--json", "--against", logs[1].path).output)
    assert said == {"lines": 3, "head": logs[0].head().digest, "torn": 0, "heads": 3}


def test_the_first_bad_line_is_named(logs):
    path = logs[0].path
    path.write_bytes(path.read_bytes().replace(b'"version":"1"', b'"version":"2"'))
    with pytest.raises(StateError, match="changed at line 2 "):
        raise run("verify", path).exception


def test_a_log_written_anew_does_not_hold_what_was_countersigned(logs, tmp_path):
    site, lead = logs
    anew = AuditLog(tmp_path / "anew.jsonl")
    anew.append("enrolled", site="north", certificate="ab", authority="cd")
    anew.append("started", version="2")
    assert run("verify", anew.path).exit_code == 0  # by itself it is fine
    for arguments in ((anew.path, "--against", lead.path), (lead.path, "--against", anew.path)):
        with pytest.raises(StateError, match="line 2 is not the one that line 1 of"):
            raise run("verify", *arguments).exception
    rolled = AuditLog(tmp_path / "rolled.jsonl")
    rolled.append("authority_made", study="x", fingerprint="y")
    with pytest.raises(StateError, match="line 1 is not the one that line 3 of"):
        raise run("verify", site.path, "--against", rolled.path).exception


def test_two_logs_of_one_kind_are_wrong_use(logs):
    with pytest.raises(ConfigError, match="not the logs of one site and its coordinator"):
        raise run("verify", logs[1].path, "--against", logs[1].path).exception


def test_half_a_line_after_a_crash_is_told_and_is_no_fault(logs):
    with logs[0].path.open("ab") as file:
        file.write(b'{"number":4')
    done = run("verify", logs[0].path)
    assert done.exit_code == 0
    assert "half a line" in done.output


def test_the_export_holds_every_line_and_the_countersignatures(logs, tmp_path):
    target = tmp_path / "out.json"
    assert run("export", logs[0].path, target).exit_code == 0
    found = json.loads(target.read_text())
    assert found["head"] == {"lines": 3, "digest": logs[0].head().digest}
    assert [x["event"] for x in found["lines"]] == ["enrolled", "started", "head_countersigned"]
    assert [x["number"] for x in found["countersignatures"]] == [3]
    table = tmp_path / "out.csv"
    assert run("export", logs[0].path, table).exit_code == 0
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 4
    assert rows[-1][-1] == logs[0].head().digest


def test_an_export_replaces_no_file_and_knows_its_forms(logs, tmp_path):
    target = tmp_path / "out.json"
    target.write_text("mine")
    with pytest.raises(StateError, match="exists"):
        raise run("export", logs[0].path, target).exception
    with pytest.raises(ConfigError, match=r"\.json or \.csv"):
        raise run("export", logs[0].path, tmp_path / "out.txt").exception


def test_a_missing_log_is_an_error_with_its_path(tmp_path):
    with pytest.raises(StateError, match="cannot read the audit log"):
        raise run("verify", tmp_path / "nothing.jsonl").exception
