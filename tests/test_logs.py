"""Logs: one event a line, whatever a peer put into it."""

from __future__ import annotations

import json

import pytest
import structlog

from primia.logs import configure

HOSTILE = 'x\n{"event":"round_committed"}\r\x1b[2J\u202ey\x00'


@pytest.fixture(autouse=True)
def _restored():
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("as_json", [True, False])
def test_control_characters_of_a_peer_are_escaped(capsys, as_json):
    configure(json=as_json)
    structlog.get_logger().warning("round_aborted", reason=HOSTILE, sites=[HOSTILE])
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    line = written.rstrip("\n")
    if not as_json:  # colours are ours, and off where no terminal is
        line = line.replace("\x1b[0m", "")
    assert line.isprintable()
    if as_json:
        assert json.loads(line)["reason"] == HOSTILE


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_is_kept_and_cannot_carry_control_characters(capsys, as_json):
    configure(json=as_json)
    try:
        raise ValueError("\x1b[2J\r" + HOSTILE)
    except ValueError:
        structlog.get_logger().exception("call_failed")
    written = capsys.readouterr().err
    assert "ValueError" in written
    assert not {c for c in written if not c.isprintable()} - {"\n", "\t"}
