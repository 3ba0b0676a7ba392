"""What the hospital's books refuse, and what the metrics show (rows P01 and O04)."""

from __future__ import annotations

import re
import subprocess
import urllib.request

import pytest

from primia.demo.fleet import Daemon, command, free_port
from tests.faults.ward import Ward

pytestmark = [pytest.mark.faults, pytest.mark.timeout(500)]


def test_o04_metrics_are_on_the_loopback_and_about_nobody(ward: Ward) -> None:
    port = free_port()
    start = ("start", "--state", str(ward.home), "--listen", f"127.0.0.1:{ward.port}")
    refused = subprocess.run(
        command("coordinator", *start, "--metrics", f"0.0.0.0:{port}"),
        capture_output=True, text=True,
    )  # fmt: skip
    assert refused.returncode in (1, 2)
    assert "--metrics-public" in refused.stderr
    ward.daemons["coordinator"] = Daemon.start(
        "coordinator", ward.folder / "coordinator.log", "coordinator", *start,
        "--metrics", f"127.0.0.1:{port}",
    )  # fmt: skip
    ward.start_worker("north")
    ward.wait_for(ward.coordinator, "site_attends", site="north")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    assert "primia_" in text
    assert not re.search("patient|film", text, re.IGNORECASE)
    ward.terminate("north")
    ward.terminate("coordinator")
