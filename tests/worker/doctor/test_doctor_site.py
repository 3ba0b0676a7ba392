"""Each fault of a site's own set-up is found, with cause and remedy; one in order has none."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from primia.errors import StateError
from primia.imaging.export import write_site_npz
from primia.imaging.pictures import Defect
from primia.privacy import DpSgd, Ledger
from primia.storage.folder import StateFolder
from primia.types import sha256
from tests.attacks.hospitals import films
from tests.imaging.film_files import class_folders, write_csv
from tests.renewal.study import EAST, PLAN
from tests.worker.doctor.conftest import PATIENTS, Hospital, contents
from worker.doctor import films as film_checks
from worker.doctor import machine
from worker.doctor.report import must_mend, render
from worker.doctor.visit import Seen, State, Visit
from worker.state import DOMINATED, WorkerState


def charge(hospital: Hospital, steps: int = 1) -> None:
    """A release of another study, by all patients."""
    with Ledger(hospital.state / "ledger.db") as ledger:
        ledger.charge(
            plan=sha256(b"another"),
            round_number=1,
            attempt=1,
            mechanism=DpSgd(0.5, 1.0, steps),
            update=sha256(b"update"),
            cap_epsilon=1e6,
            cap_delta=1e-3,
            time="2026-01-01T00:00:00+00:00",
            study="another",
            site="other",
        )


def test_a_set_up_in_order_has_nothing_to_mend(hospital: Hospital) -> None:
    visit = hospital.examine()
    assert {f.name: f.text for f in visit.findings if f.state is State.MEND} == {}
    assert {f.name for f in visit.findings if f.state is State.OPEN} == set()
    texts = {f.name: f.text for f in visit.findings}
    assert "Ada approved this plan and these films" in texts["approval"]
    assert "after all rounds" in texts["budget"]
    assert "one lost under way" in texts["masked sum"]
    assert "small-cnn with 5 made-up patients" in texts["private step"]


def test_nothing_is_written_also_beside_a_running_daemon(hospital: Hospital) -> None:
    with StateFolder(hospital.state):
        daemon = WorkerState(hospital.state)
        daemon.note("something", "new")
        before = contents(hospital.state)
        visit = hospital.examine()
        after = contents(hospital.state)
        daemon.close()
    assert not [f for f in visit.findings if f.state is State.MEND]
    assert {n: c for n, c in after.items() if not n.endswith("-shm")} == {
        n: c for n, c in before.items() if not n.endswith("-shm")
    }
    assert after.keys() == before.keys()


def test_a_refusal_leaves_no_trace_in_the_audit_log(hospital: Hospital) -> None:
    hospital.configure(caps={"max_epsilon": 0.5})
    before = contents(hospital.state)
    found = hospital.fault()
    assert found.name == "caps"
    assert "above this site's cap 0.5" in found.text
    assert "ask for fewer rounds or more noise" in found.text
    assert contents(hospital.state) == before


def test_before_enrolment_the_next_steps_are_told(tmp_path: Path) -> None:
    visit = Hospital(SimpleNamespace(), tmp_path).examine()  # type: ignore[arg-type]
    mend = [f for f in visit.findings if f.state is State.MEND]
    assert [f.name for f in mend] == ["site file", "enrolment"]
    assert "copy site.example.yaml" in mend[0].text
    assert "primia-worker enrol CODE" in mend[1].text
    assert not list(tmp_path.iterdir())


def test_a_mistake_in_the_site_file(hospital: Hospital) -> None:
    hospital.configure(caps={"max_epsilonn": 3.0})
    found = hospital.fault()
    assert found.name == "site file"
    assert "did you mean 'max_epsilon'" in found.text


def test_modes_that_are_open_to_others_do_not_hide_the_rest(hospital: Hospital) -> None:
    hospital.state.chmod(0o755)
    (hospital.state / "identity" / "site.key").chmod(0o644)
    found = hospital.fault()
    assert found.name == "folder and keys"
    assert f"chmod 700 {hospital.state} && chmod 600" in found.text
    assert f"{hospital.state}/identity/site.key has mode 0644" in found.text


def test_an_edited_ledger(hospital: Hospital) -> None:
    charge(hospital)
    hospital.sql("ledger.db", "DROP TRIGGER ledger_keeps_values")
    hospital.sql("ledger.db", "UPDATE ledger SET time = 'never'")
    found = hospital.fault()
    assert found.name == "ledger"
    assert "changed at row 1; restore it from a backup" in found.text


def test_a_ledger_that_is_missing(hospital: Hospital) -> None:
    (hospital.state / "ledger.db").unlink()
    found = hospital.fault()
    assert found.name == "ledger"
    assert "missing; restore it from a backup" in found.text


def test_an_edited_audit_log(hospital: Hospital) -> None:
    log = hospital.state / "audit.jsonl"
    log.write_text(log.read_text().replace("Ada", "Eve"))
    found = hospital.fault()
    assert found.name == "audit log"
    assert "changed at line" in found.text


def test_a_ledger_that_was_put_back(hospital: Hospital) -> None:
    hospital.sql("worker.db", "INSERT INTO meta VALUES ('ledger_head', ?)", f"3:{'a' * 64}")
    found = hospital.fault()
    assert found.name == "books"
    assert "older than what this site has already released" in found.text


def test_a_budget_that_is_spent(hospital: Hospital) -> None:
    charge(hospital, steps=400)
    found = hospital.fault()
    assert found.name == "budget"
    assert "privacy budget" in found.text
    assert "Ask for fewer rounds or more noise" in found.text


def test_a_cohort_that_nobody_approved(hospital: Hospital) -> None:
    hospital.sql("worker.db", "DELETE FROM decisions")
    found = hospital.fault()
    assert found.name == "approval"
    assert "primia-worker plan approve" in found.text


def test_a_cohort_that_changed_since_it_was_approved(hospital: Hospital) -> None:
    more = {EAST: films(PATIENTS + 3, seed=1)}
    (npz,) = write_site_npz(more, hospital.folder / "more", PLAN.model.classes)
    hospital.films_are({"kind": "npz", "path": str(npz)})
    found = hospital.fault()
    assert found.name == "approval"
    assert "the cohort changed since it was approved by Ada" in found.text


def test_films_that_are_not_there(hospital: Hospital) -> None:
    hospital.films_are({"kind": "folder", "path": str(hospital.folder / "nowhere")})
    found = {f.name: f.text for f in hospital.examine().findings if f.state is State.MEND}
    assert "not a folder; check the path" in found["sample films"]


def test_films_that_cannot_be_read(hospital: Hospital) -> None:
    root = hospital.folder / "films"
    names = class_folders(root, 30, PLAN.model.classes)
    for name in names[::2]:
        (root / name).write_bytes((root / name).read_bytes()[:60])
    hospital.films_are({"kind": "folder", "path": str(root), "every_film_its_own_patient": True})
    found = {f.name: f.text for f in hospital.examine().findings if f.state is State.MEND}
    assert "of 20 films cannot be read" in found["sample films"]
    assert "truncated or damaged" in found["sample films"]
    assert "export them again" in found["sample films"]
    assert not any(name in text for name in names for text in found.values())


def test_a_decoder_that_is_missing_where_there_are_dicom_films(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    dicom = pytest.importorskip("tests.imaging.dicom_files")
    root = hospital.folder / "films"
    root.mkdir()
    for i in range(24):
        stored = dicom.gradient() + np.uint16(i)
        (root / f"{i}.dcm").write_bytes(dicom.encoded_film(stored, 13, PatientID=f"P{i}"))
    table = write_csv(
        root / "films.csv", ("file", "label"), [(f"{i}.dcm", i % 2) for i in range(24)]
    )
    hospital.films_are({"kind": "csv", "path": str(table)})
    visit = {f.name: f for f in hospital.examine().findings}
    assert visit["decoders"].state is State.WELL
    assert "20 of 24 films can be read" in visit["sample films"].text
    monkeypatch.setattr(film_checks, "missing_decoders", lambda: (Defect.NO_GDCM,))
    found = {f.name: f.text for f in hospital.examine().findings if f.state is State.MEND}
    assert "pip install python-gdcm" in found["decoders"]


def test_a_full_disk(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(f_bavail=10, f_frsize=4096, f_flag=0, f_files=0, f_favail=0)
    monkeypatch.setattr(machine.os, "statvfs", lambda _: full)
    found = hospital.fault()
    assert found.name == "disk"
    assert "left on the disk" in found.text
    assert "free space" in found.text


def test_a_gpu_that_is_asked_for_and_is_not_here(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    hospital.configure(compute={"device": "cuda:1"})
    found = hospital.fault()
    assert found.name == "device"
    assert "0 are here; ask for fewer, or use cpu" in found.text


def test_a_cohort_too_large_to_read_in_time_leaves_the_plan_to_compare(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    from worker.doctor import examine

    monkeypatch.setattr(examine, "HEAVY_S", 0.3)
    monkeypatch.setattr(film_checks, "cohort", lambda *_: threading.Event().wait(20))
    visit = Visit()
    monkeypatch.setattr(examine, "Visit", lambda _total: visit)
    monkeypatch.setattr(examine, "_machine", lambda *_: None)
    monkeypatch.setattr(examine.link, "study", lambda _: _patiently(hospital))
    found = {f.name: f for f in hospital.examine().findings}
    assert found["cohort"].state is State.OPEN
    assert "plan show reads them all" in found["cohort"].text
    assert "films not compared" in found["approval"].text
    assert found["budget"].state is State.WELL
    assert visit.slow


def _patiently(hospital: Hospital) -> Seen[Any]:
    from worker.doctor.link import Answer

    bundle = hospital.study.service.study(SimpleNamespace(name="east"))  # type: ignore[arg-type]
    return Seen(Answer(bundle, None, 0.0), "answered")


# --- the way checks are made ---------------------------------------------------------------------


def test_a_check_that_hangs_is_given_up_and_the_others_go_on() -> None:
    import threading

    visit = Visit()
    never = threading.Event()
    visit.look("hangs", "Do something", lambda: Seen(never.wait(), ""), limit_s=0.1)
    assert visit.look("works", "Nothing", lambda: Seen(7, "fine")) == 7
    hangs, works = visit.findings
    assert hangs.state is State.MEND
    assert "longer than 0 s and was given up" in hangs.text
    assert works.state is State.WELL
    assert visit.slow
    never.set()


def test_when_the_time_for_all_is_over_the_rest_is_left_open() -> None:
    visit = Visit(total_s=0)
    assert visit.look("late", "Nothing", lambda: Seen(7, "fine")) is None
    assert visit.findings[0].state is State.OPEN
    assert "run it again" in visit.findings[0].text


def test_a_bug_in_a_check_is_told_and_no_traceback() -> None:
    visit = Visit()

    def broken() -> Seen[None]:
        raise KeyError("what")

    visit.look("broken", "Nothing", broken)
    assert visit.findings[0].state is State.MEND
    assert "KeyError" in visit.findings[0].text
    assert "report this" in visit.findings[0].text


def test_the_first_cause_is_named_and_not_the_last() -> None:
    visit = Visit()

    def refuse() -> Seen[None]:
        raise StateError("no; mend it")

    visit.look("a", "Mend a", refuse)
    visit.look("b", "Mend b", refuse, needs=["a"])
    visit.look("c", "Mend c", refuse, needs=["b"])
    assert [f.because for f in visit.findings] == ["", "a", "a"]


def test_what_is_worth_a_look_is_numbered_on_and_stops_nothing(hospital: Hospital) -> None:
    hospital.configure(compute={"threads": 250})
    hospital.sql("worker.db", "DELETE FROM decisions")
    visit = hospital.examine()
    console = Console(width=80, record=True, file=io.StringIO())
    for part in render(visit):
        console.print(part)
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert " 1. Have people look at the plan and the films, and approve them" in lines
    assert " 2. Device" in lines
    assert any("lower compute.threads" in line for line in lines)
    assert all(len(line) <= 80 for line in lines)
    assert must_mend(visit)
    visit.findings = [f for f in visit.findings if f.state is not State.MEND]
    assert not must_mend(visit)


# --- the command ---------------------------------------------------------------------------------


def doctor(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worker", "doctor", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=250)


def test_the_command_ends_with_0_and_prints_json(hospital: Hospital) -> None:
    done = doctor("--config", hospital.site_file, "--state", hospital.state, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["well"]
    assert len(found["checks"]) >= 20
    assert done.stderr == ""


def test_the_command_ends_with_1_and_numbers_what_to_do(hospital: Hospital) -> None:
    hospital.state.chmod(0o755)
    hospital.dials("no-such-host.invalid:8443")
    done = doctor("--config", hospital.site_file, "--state", hospital.state)
    assert done.returncode == 1
    assert done.stderr == ""
    assert " 1. Close what is open to others" in done.stdout
    assert " 2. Mend the way to the coordinator" in done.stdout
    assert f"    run: chmod 700 {hospital.state}\n" in done.stdout  # whole, to be copied
    assert "Everything else is well (" in done.stdout
    assert "Traceback" not in done.stdout


def test_the_command_ends_with_2_for_a_wrong_option() -> None:
    assert doctor("--confg", "x").returncode == 2


def test_the_deep_doctor_audits_the_approved_plan_on_this_machine(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The honest audit is refuted once in 500 times, so once in 500 runs this fails by chance."""
    assert "audit" not in {f.name for f in hospital.examine().findings}
    texts = {f.name: f.text for f in hospital.examine(deep=True).findings}
    assert texts["audit"].startswith("not refuted, which is no proof: ε is at least")
    assert "stand-in" not in texts["audit"]
    halved = property(lambda step: step.noise_multiplier / 2)
    monkeypatch.setattr("primia.learning.step.PrivateStep.gradient_noise", halved)
    (fault,) = [f for f in hospital.examine(deep=True).findings if f.state is State.MEND]
    assert fault.name == "audit"
    assert "more is shown than was claimed" in fault.text
    assert "do not train on this machine" in fault.text


def test_a_patient_who_outweighed_the_others_is_told_here_without_figures(
    hospital: Hospital,
) -> None:
    assert next(f for f in hospital.examine().findings if f.name == "sums").state is State.WELL
    book = WorkerState(hospital.state)
    book.note(DOMINATED, "1")
    book.close()
    visit = hospital.examine()
    found = next(f for f in visit.findings if f.name == "sums")
    assert found.state is State.LOOK
    assert not must_mend(visit)
    assert not any(c.isdigit() for c in found.text)
