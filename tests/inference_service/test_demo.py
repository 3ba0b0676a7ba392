"""The demonstration: the command as a person starts it, three processes and the real protocol."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.processes
def test_the_three_roles_answer_as_the_plain_model_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "primia", "infer", "demo", "--size", "28", "--films", "2", "--json"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [f["encrypted"] for f in found["films"]] == [f["plain"] for f in found["films"]]
    assert len(found["films"]) == 2
    seconds, sent, received = found["phases"]["encrypted prediction"]
    assert seconds > 0
    assert sent > 1
    assert received > 1
