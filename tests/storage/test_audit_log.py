"""What an audit log promises: durable, whole lines in one chain, and no silent change."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.errors import StateError
from primia.storage.audit_log import EMPTY, AuditLog, Head, read
from primia.storage.disk import LocalDisk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def filled(path: Path, lines: int = 5) -> list[bytes]:
    log = AuditLog(path, clock=lambda: 1.7e9)
    for i in range(lines):
        log.append("site_struck", site=f"site-{i}")
    return path.read_bytes().splitlines(keepends=True)


def test_lines_come_back_in_order_with_their_fields(path):
    filled(path, 3)
    lines, torn = read(path)
    assert torn == 0
    assert [(x.number, x.event, x.fields) for x in lines] == [
        (1, "site_struck", {"site": "site-0"}),
        (2, "site_struck", {"site": "site-1"}),
        (3, "site_struck", {"site": "site-2"}),
    ]
    assert lines[0].time == "2023-11-14T22:13:20.000+00:00"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_chain_goes_on_in_another_process(path):
    filled(path, 2)
    head = AuditLog(path).append("started", version="1")
    assert head.lines == 3
    assert AuditLog(path).verify() == head


@pytest.mark.parametrize("line", [1, 3, 5])
def test_an_edited_line_is_found_with_its_number(path, line):
    lines = filled(path)
    lines[line - 1] = lines[line - 1].replace(b"site-", b"s1te-")
    path.write_bytes(b"".join(lines))
    with pytest.raises(StateError, match=f"changed at line {line} "):
        AuditLog(path).verify()
    with pytest.raises(StateError, match=f"changed at line {line} "):
        read(path)


def test_an_edited_line_with_a_digest_made_to_fit_breaks_the_next_one(path):
    lines = filled(path)
    other = path.with_name("other.jsonl")
    forger = AuditLog(other)
    forger.append("site_struck", site="site-0")
    forger.append("site_struck", site="somebody-else")
    lines[0], lines[1] = other.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines))
    with pytest.raises(StateError, match="changed at line 3 "):
        read(path)


@pytest.mark.parametrize("gone", [1, 2, 4])
def test_a_missing_line_is_found_with_its_number(path, gone):
    lines = filled(path)
    del lines[gone - 1]
    path.write_bytes(b"".join(lines))
    with pytest.raises(StateError, match=f"changed at line {gone} "):
        AuditLog(path).verify()


def test_reordered_and_repeated_lines_are_found(path):
    lines = filled(path)
    path.write_bytes(b"".join([lines[0], lines[2], lines[1], *lines[3:]]))
    with pytest.raises(StateError, match="changed at line 2 "):
        AuditLog(path).verify()
    path.write_bytes(b"".join([*lines, lines[4]]))
    with pytest.raises(StateError, match="changed at line 6 "):
        AuditLog(path).verify()


def test_the_same_content_in_another_form_is_a_change(path):
    lines = filled(path, 2)
    path.write_bytes(json.dumps(json.loads(lines[0])).encode() + b"\n" + lines[1])
    with pytest.raises(StateError, match="changed at line 1 "):
        AuditLog(path).verify()


def test_a_cut_off_end_is_found_by_a_head_kept_elsewhere(path):
    lines = filled(path)
    head = AuditLog(path).head()
    path.write_bytes(b"".join(lines[:4]))
    log = AuditLog(path)
    assert log.verify().lines == 4
    with pytest.raises(StateError, match="line 5 is missing"):
        log.verify(at_least=head)
    log.append("site_struck", site="another")  # as many lines again, and another chain
    assert not log.holds(head)


def test_a_head_of_zero_lines_is_only_the_beginning(path):
    log = AuditLog(path)
    assert log.head() == EMPTY
    assert log.holds(EMPTY)
    assert not log.holds(Head(0, AuditLog(path.with_name("x")).append("stopped").digest))


@given(data=st.data())
def test_wherever_a_crash_tears_the_last_line_the_chain_goes_on(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("torn") / "audit.jsonl"
    lines = filled(path, 3)
    cut = data.draw(st.integers(0, len(lines[2]) - 1))
    # The file may already have its new length while a block of it is still zeros.
    zeros = data.draw(st.booleans())
    tail = bytes(cut) + lines[2][cut:] if zeros and cut else lines[2][:cut]
    path.write_bytes(b"".join(lines[:2]) + tail)
    log = AuditLog(path)
    assert log.verify().lines == 2
    log.append("site_struck", site="after")
    found, torn = read(path)
    assert torn == 0
    mended = [x.fields for x in found if x.event == "log_mended"]
    assert mended == ([{"bytes": len(tail)}] if tail else [])
    assert found[-1].fields == {"site": "after"}


def test_zeros_in_the_middle_are_no_crash(path):
    lines = filled(path, 3)
    path.write_bytes(lines[0] + bytes(len(lines[1]) - 1) + b"\n" + lines[2])
    with pytest.raises(StateError, match="changed at line 2 "):
        AuditLog(path).append("stopped")


def test_an_event_or_field_outside_the_catalogue_is_an_error_and_nothing_is_written(path):
    log = AuditLog(path)
    with pytest.raises(KeyError):
        log.append("patient_seen")
    with pytest.raises(ValueError, match="has the fields"):
        log.append("site_struck")
    with pytest.raises(ValueError, match="has the fields"):
        log.append("site_struck", site="a", patient="4711")
    assert not path.exists()


def test_control_characters_and_line_breaks_of_a_message_are_escaped(path):
    AuditLog(path).append("round_aborted", round=1, attempt=1, reason='a\n\x1b[2J\u202e"x')
    data = path.read_bytes()
    assert data.count(b"\n") == 1
    assert all(32 <= c < 127 for c in data[:-1])
    assert read(path)[0][0].fields["reason"] == 'a\n\x1b[2J\u202e"x'


def test_two_processes_append_to_one_chain(path):
    code = (
        "import sys, pathlib; from primia.storage.audit_log import AuditLog\n"
        "log = AuditLog(pathlib.Path(sys.argv[1]))\n"
        "for i in range(50): log.append('site_struck', site=sys.argv[2])"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in ("a", "b")
    ]
    assert [p.wait() for p in running] == [0, 0]
    lines, torn = read(path)
    assert torn == 0
    assert sorted(x.fields["site"] for x in lines) == ["a"] * 50 + ["b"] * 50


def test_a_disk_that_fails_leaves_no_half_line(path):
    filled(path, 2)

    class Failing(LocalDisk):
        def append(self, path, data):
            super().append(path, data[: len(data) // 2])
            raise OSError(28, "No space left on device")

    with pytest.raises(StateError, match="No space left"):
        AuditLog(path, disk=Failing()).append("stopped")
    log = AuditLog(path)
    lines, torn = read(path)
    assert (len(lines), torn) == (2, 0)
    assert log.append("stopped").lines == 3


def test_a_file_that_shrinks_under_a_running_daemon_is_an_error(path):
    lines = filled(path)
    log = AuditLog(path)
    log.verify()
    path.write_bytes(lines[0])
    with pytest.raises(StateError, match="became shorter"):
        log.append("stopped")
