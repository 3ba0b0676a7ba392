"""What the hospital's books refuse, and what the metrics show (rows P01 and O04)."""

from __future__ import annotations

import re
import subprocess
import urllib.request
from pathlib import Path

import pytest
import yaml

from primia.demo.fleet import Daemon, command, free_port
from tests.faults.ward import FOUR, SCHEDULE, Ward
from tests.processes.federation import plan

pytestmark = [pytest.mark.faults, pytest.mark.timeout(500)]


def test_p01_a_second_study_on_the_same_patients_past_the_budget_trains_nothing(
    ward: Ward, tmp_path: Path
) -> None:
    """The first study costs ε = 4.46; a second one like it would go past 6 in all."""
    ward.start_coordinator()
    ward.start_all()
    ward.wait_for_end()
    ledger = ward.folder / "north" / "ledger.db"

    second = Ward(tmp_path / "second", FOUR)
    second.folder.mkdir()
    try:
        second.found(plan(FOUR, schedule=SCHEDULE, purpose="another"), approved=False)
        file = second.folder / "north.yaml"
        site = yaml.safe_load(file.read_text())
        site["caps"]["max_epsilon"] = 6.0
        site["ledger"] = {"path": str(ledger)}
        file.write_text(yaml.safe_dump(site))
        arguments = ["--config", str(file), "--state", str(second.folder / "north")]
        asked = subprocess.run(
            command("worker", "plan", "approve", "--as", "test", *arguments),
            capture_output=True, text=True,
        )  # fmt: skip
        assert asked.returncode == 1, asked.stdout
        line = asked.stderr.strip().splitlines()[-1]
        assert re.search(r"4\.4\d", line), line  # spent
        assert "6" in line  # the cap
        worker = second.start_worker("north")
        second.wait_until(
            lambda: worker.process.poll() is not None or "waiting" in second.said("north"), 90
        )
        assert '"working"' not in second.said("north")
    finally:
        second.stop()
    assert [r for r, _ in ward.ledger("north")] == [1, 2]  # nothing more was charged


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
