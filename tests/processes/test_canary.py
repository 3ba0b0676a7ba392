"""One study whose patients, films and folder have names that must be found nowhere outside.

Its daemons serve metrics, and its audit logs are held against each other in the end.
"""

from __future__ import annotations

import csv
import json
import os
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from primia.config.strict import parse_yaml_file
from primia.demo.fleet import call, free_port
from primia.demo.plans import write_yaml
from primia.imaging.synth import CLASSES, synthesise
from primia.storage.audit_log import read
from tests.processes.federation import PATIENTS, SIZE, Federation, plan

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

THREE = ["north", "south", "east"]
CANARIES = (b"CANARYPATIENT", b"CANARYFILM", b"CANARYPATH")


def write_films(folder: Path, seed: int) -> Path:
    """Films as a hospital has them: names in tables and paths, and one that cannot be read."""
    folder.mkdir(parents=True)
    films = synthesise(PATIENTS, size=SIZE, seed=3, site=seed)
    rows = []
    for i, (pixels, label, patient) in enumerate(
        zip(films.pixels, films.labels, films.patients, strict=True)
    ):
        name = f"CANARYFILM-{i:04d}.png"
        Image.fromarray(pixels).save(folder / name)
        rows.append((name, CLASSES[label], f"CANARYPATIENT-{patient:04d}"))
    (folder / "CANARYFILM-broken.png").write_bytes(b"no picture")
    rows.append(("CANARYFILM-broken.png", CLASSES[0], "CANARYPATIENT-9999"))
    table = folder / "labels.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "patient"), *rows])
    return table


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as reply:
        return reply.read().decode()


def test_no_patient_film_or_path_is_in_any_sink_and_the_metrics_tell_the_state(tmp_path):
    federation = Federation(tmp_path, THREE)
    ports = {name: free_port() for name in ["coordinator", *THREE]}
    try:
        federation.found(plan(THREE), approved=False)
        federation.daemons["coordinator"].process.terminate()
        federation.daemons["coordinator"].process.wait()
        federation.start_coordinator("--metrics", f"127.0.0.1:{ports['coordinator']}")
        for i, name in enumerate(THREE):
            table = write_films(tmp_path / "CANARYPATH" / name, i)
            file = tmp_path / f"{name}.yaml"
            site = parse_yaml_file(file)
            write_yaml(site | {"data": {"kind": "csv", "path": str(table)}}, file)
            federation.approve(name)
        os.environ["SENT"] = str(tmp_path / "sent.bin")
        for name in THREE:
            module = "tests.processes.tells_what_it_sends" if name == "north" else "worker"
            federation.start_worker(name, module, "--metrics", f"127.0.0.1:{ports[name]}")
        coordinator = federation.daemons["coordinator"]
        federation.wait_for(federation.daemons["north"], "charged", round=2, timeout_s=240)
        at_site, at_lead = scrape(ports["north"]), scrape(ports["coordinator"])
        federation.wait_for_end(240)
        for name in THREE:
            process = federation.daemons[name].process
            federation.wait_until(lambda process=process: process.poll() is not None, 60)
        assert coordinator.process.returncode == 0
    finally:
        os.environ.pop("SENT", None)
        federation.stop()

    check_metrics(at_site, at_lead)
    federation.result()
    sinks = [tmp_path / "sent.bin", *tmp_path.glob("*.log")]
    sinks += [tmp_path / name / "audit.jsonl" for name in THREE]
    sinks += [p for folder in (federation.home, tmp_path / "result") for p in folder.rglob("*")]
    for name in THREE:
        target = tmp_path / f"{name}.json"
        call("primia", "audit-log", "export", str(tmp_path / name), str(target))
        sinks.append(target)
    found = {p: p.read_bytes() for p in sinks if p.is_file()}
    found[Path("metrics")] = (at_site + at_lead).encode()
    assert len(found[tmp_path / "sent.bin"]) > 1000
    for path, data in found.items():
        assert not [c for c in CANARIES if c in data], path

    check_audit_logs(federation)


def check_metrics(at_site: str, at_lead: str) -> None:
    site, lead = series(at_site), series(at_lead)
    assert 0 < site["primia_epsilon_spent"] <= site["primia_epsilon_cap"] == 20.0
    assert site["primia_round"] == 2
    assert site['primia_bytes_total{direction="sent"}'] > 1000
    assert site['primia_certificate_days_left{whose="site"}'] > 300
    assert site["primia_last_contact_seconds"] < 120
    assert lead["primia_rounds_planned"] == 2
    assert lead['primia_attempts_total{outcome="committed"}'] >= 1
    assert lead['primia_bytes_total{direction="received"}'] > 1000
    assert {f'primia_site_last_contact_seconds{{site="{s}"}}' for s in THREE} <= set(lead)
    assert lead['primia_certificate_days_left{whose="authority"}'] > 300
    assert not [n for n in [*site, *lead] if "patient" in n or "film" in n]


def series(text: str) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def check_audit_logs(federation: Federation) -> None:
    """Each verifies, and holds what the other side countersigned after each attempt."""
    for name in THREE:
        said = json.loads(
            call(
                "primia", "audit-log", "verify", str(federation.folder / name), "--json",
                "--against", str(federation.home),
            )
        )  # fmt: skip
        assert said["heads"] >= 4
        lines, torn = read(federation.folder / name / "audit.jsonl")
        assert torn == 0
        events = [x.event for x in lines]
        for event in ("enrolled", "plan_approved", "plan_pinned", "started", "stopped"):
            assert event in events, event
        sent = [x.fields for x in lines if x.event == "update_sent"]
        charged = [x.fields["update"] for x in lines if x.event == "charged"]
        assert [x["round"] for x in sent] == [1, 2, 3]
        assert [x["update"] for x in sent][:2] == charged  # the third only evaluates
        before = events.index("charged") < events.index("keys_made") < events.index("update_sent")
        assert before
    lines, _ = read(federation.home / "audit.jsonl")
    committed = [x.fields for x in lines if x.event == "round_committed"]
    assert [(x["round"], x["sites"]) for x in committed] == [(n, sorted(THREE)) for n in (1, 2, 3)]
    assert [x.event for x in lines][-1] == "exported"
