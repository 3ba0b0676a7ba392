"""What people get wrong ends in one clear line and an exit code, never in a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import structlog
from PIL import Image

import coordinator.cli
import worker.cli
from coordinator import home
from coordinator.rounds import RoundDriver
from coordinator.rows import ModelRow, PinnedStudy
from coordinator.service import Service
from coordinator.state import CoordinatorState
from primia.cli import main as primia_cli
from primia.config import canonical_bytes, load_plan, plan_digest
from primia.demo.plans import write_yaml
from primia.identity import authority, keyfile
from primia.identity.certificate import to_pem
from primia.identity.signing import sign
from primia.settle import settle
from primia.storage.blobs import Blobs
from primia.storage.folder import StateFolder
from primia.types import Digest, SiteId
from primia.wire.labels import PLAN_LABEL
from primia.wire.server import Server, serve
from tests.processes.federation import plan
from worker.participant import OVER
from worker.state import WorkerState

SITES = ["east", "north", "south"]
Run = Callable[..., "Ended"]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of error."""
        lines = [x for x in self.err.splitlines() if x.startswith("error:")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(main: Callable[[], None], *arguments: Any) -> Ended:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        text = capsys.readouterr()
        return Ended(code, text.out, text.err)

    return call


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    return write_yaml(plan(SITES), tmp_path / "plan.yaml")


@pytest.fixture
def site_file(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["file,label,patient"]
    for i in range(60):
        name = f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).save(folder / name)
        rows.append(f"{name},{('normal', 'bacterial', 'viral')[i % 3]},p{i // 2}")
    (folder / "films.csv").write_text("\n".join(rows) + "\n")
    site = {
        "data": {"kind": "csv", "path": "films/films.csv"},
        "caps": {"max_epsilon": 20.0, "max_delta": 1e-3, "min_patients": 5},
    }
    return write_yaml(site, tmp_path / "site.yaml")


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("rounds: 2", "rounds: 2\nround: 2", "unknown key 'round'; did you mean 'rounds'?"),
        ("rounds: 2", "rounds: 2\nrounds: 3", "'rounds' is given twice"),
        ("noise_multiplier: 2.0", "target_epsilon: 1e400", "privacy.target_epsilon = inf"),
    ],
)
def test_a_bad_plan_names_file_key_and_remedy(
    run: Run, plan_file: Path, old: str, new: str, wanted: str
) -> None:
    plan_file.write_text(plan_file.read_text().replace(old, new))
    ended = run(primia_cli.main, "plan", "check", plan_file)
    assert ended.code == 2
    assert "plan.yaml" in ended.line
    assert wanted in ended.line


def test_a_missing_file_is_named(run: Run, tmp_path: Path) -> None:
    ended = run(primia_cli.main, "plan", "price", tmp_path / "none.yaml")
    assert ended.code == 2
    assert "none.yaml: cannot be read (No such file or directory)" in ended.line


def test_a_good_plan_is_priced_by_round(run: Run, plan_file: Path) -> None:
    ended = run(primia_cli.main, "plan", "price", plan_file, "--json")
    assert ended.code == 0
    assert '"epsilon": ' in ended.out


def test_a_csv_without_a_patient_column_is_refused(
    run: Run, site_file: Path, plan_file: Path
) -> None:
    table = site_file.parent / "films" / "films.csv"
    table.write_text(table.read_text().replace("patient", "person", 1))
    ended = run(primia_cli.main, "data", "check", site_file, "--plan", plan_file)
    assert ended.code == 1
    assert "patient" in ended.line


def test_a_truncated_png_is_counted_and_does_not_end_the_import(
    run: Run, site_file: Path, plan_file: Path
) -> None:
    film = site_file.parent / "films" / "3.png"
    film.write_bytes(film.read_bytes()[:200])
    ended = run(primia_cli.main, "data", "check", site_file, "--plan", plan_file, "--json")
    assert ended.code == 0
    assert '"quarantined": 1' in ended.out


# --- identity ----------------------------------------------------------------------------------


@dataclass
class Coordinator:
    """A coordinator's folder and server inside this process; no round is ever opened."""

    folder: Path
    state: CoordinatorState
    server: Server

    def invite(self, site: str) -> str:
        return home.invite(self.folder, SiteId(site), self.server.address)[0].code()

    def pin(self, plan_path: Path, *, signed: bytes | None = None) -> None:
        """Pin the plan; `signed` is what the signature is really over."""
        data = canonical_bytes(settle(load_plan(plan_path)))
        _, key = home.coordinator_identity(self.folder, self.state)
        digest = plan_digest(settle(load_plan(plan_path)))
        study = PinnedStudy(data, sign(key, PLAN_LABEL, signed or data), digest, 1000)
        none = Digest("0" * 64)
        self.state.pin_study(study, ModelRow(0, none, none, None))


@pytest.fixture
def lead(tmp_path: Path) -> Iterator[Coordinator]:
    folder = tmp_path / "coordinator"
    home.initialise(folder, "small")
    state = CoordinatorState(folder)
    driver = RoundDriver.__new__(RoundDriver)  # enrolment and the plan need no rounds
    driver.terms = Mock(plan=Digest("0" * 64))
    service = Service(folder, state, Blobs(folder / "blobs"), driver, lambda: False)
    server = serve(service, listen="127.0.0.1:0", tls=service.tls, roots=service.roots)
    with server:
        yield Coordinator(folder, state, server)
    state.close()


@pytest.fixture
def north(run: Run, lead: Coordinator, tmp_path: Path) -> Path:
    """The folder of an enrolled site."""
    ended = run(worker.cli.main, "enrol", lead.invite("north"), "--state", tmp_path / "north")
    assert ended.code == 0, ended.err
    return tmp_path / "north"


def test_enrolment_stores_key_and_certificate_for_this_user_alone(north: Path) -> None:
    assert (north / "identity").stat().st_mode & 0o777 == 0o700
    assert (north / "identity" / "site.key").stat().st_mode & 0o777 == 0o600
    assert (north / "identity" / "site.pem").stat().st_mode & 0o777 == 0o600


def test_a_used_invitation_is_refused_with_the_reason(
    run: Run, lead: Coordinator, tmp_path: Path
) -> None:
    code = lead.invite("north")
    assert run(worker.cli.main, "enrol", code, "--state", tmp_path / "one").code == 0
    ended = run(worker.cli.main, "enrol", code, "--state", tmp_path / "two")
    assert ended.code == 1
    assert "this invitation was used before" in ended.line


def test_a_fingerprint_that_differs_stops_enrolment(
    run: Run, lead: Coordinator, tmp_path: Path
) -> None:
    ended = run(
        worker.cli.main, "enrol", lead.invite("north"), "--state", tmp_path / "n",
        "--fingerprint", "00:" * 31 + "00",
    )  # fmt: skip
    assert ended.code == 1
    assert "do not enrol" in ended.line


def test_a_mistyped_code_is_named_as_such(run: Run, lead: Coordinator, tmp_path: Path) -> None:
    code = lead.invite("north")
    wrong = code[:40] + ("A" if code[40] != "A" else "B") + code[41:]
    ended = run(worker.cli.main, "enrol", wrong, "--state", tmp_path / "n")
    assert ended.code == 1
    assert "typo" in ended.line


def test_a_foreign_certificate_is_refused_by_the_worker_itself(
    run: Run, north: Path, site_file: Path, tmp_path: Path
) -> None:
    other = authority.create(tmp_path / "other", "small", now=datetime.now(UTC), valid_days=10)
    (north / "identity" / "authority.pem").write_bytes(to_pem(other.certificate))
    ended = run(worker.cli.main, "run", "--config", site_file, "--state", north)
    assert ended.code == 1
    assert "was not issued by the authority trusted here" in ended.line


def test_an_expired_certificate_says_when_and_what_to_do(
    run: Run, lead: Coordinator, north: Path, site_file: Path
) -> None:
    made = authority.load(lead.folder / "authority")
    from primia.identity.enrolment import make_request

    key = keyfile.load_key(north / "identity" / "site.key")
    past = datetime.now(UTC) - timedelta(minutes=30)
    old = made.issue_site(make_request(key), SiteId("north"), now=past, valid_days=0)
    keyfile.store(north / "identity" / "site.pem", to_pem(old))
    ended = run(worker.cli.main, "run", "--config", site_file, "--state", north)
    assert ended.code == 1
    assert "expired on" in ended.line
    assert "enrol again" in ended.line


def test_a_struck_site_is_refused_at_its_next_call(
    run: Run, lead: Coordinator, north: Path, site_file: Path, plan_file: Path
) -> None:
    lead.pin(plan_file)
    assert (
        run(coordinator.cli.main, "roster", "--strike", "north", "--state", lead.folder).code == 0
    )
    ended = run(worker.cli.main, "run", "--config", site_file, "--state", north)
    assert ended.code == 1
    assert "struck from the roster" in ended.line


# --- plans at the site -------------------------------------------------------------------------


def test_a_plan_whose_signature_does_not_verify_is_refused(
    run: Run, lead: Coordinator, north: Path, site_file: Path, plan_file: Path
) -> None:
    lead.pin(plan_file, signed=b"another plan")
    ended = run(worker.cli.main, "run", "--config", site_file, "--state", north)
    assert ended.code == 1
    assert "signature does not verify" in ended.line


def test_a_plan_above_the_sites_cap_is_refused(
    run: Run, lead: Coordinator, north: Path, site_file: Path, plan_file: Path
) -> None:
    lead.pin(plan_file)
    site_file.write_text(site_file.read_text().replace("max_epsilon: 20.0", "max_epsilon: 0.5"))
    ended = run(worker.cli.main, "run", "--config", site_file, "--state", north)
    assert ended.code == 1
    assert "above this site's cap 0.5" in ended.line


def test_a_plan_without_privacy_is_refused_unless_the_site_allows_it(
    run: Run, lead: Coordinator, north: Path, site_file: Path, tmp_path: Path
) -> None:
    lead.pin(write_yaml(plan(SITES, privacy="none"), tmp_path / "open.yaml"))
    ended = run(worker.cli.main, "run", "--config", site_file, "--state", north)
    assert ended.code == 1
    assert "allow_no_privacy" in ended.line


def test_a_deleted_ledger_is_not_replaced_by_a_fresh_budget(
    run: Run, north: Path, site_file: Path
) -> None:
    (north / "ledger.db").unlink()
    ended = run(worker.cli.main, "run", "--config", site_file, "--state", north)
    assert ended.code == 1
    assert "the privacy ledger is missing" in ended.line


# --- machines ----------------------------------------------------------------------------------


def test_a_second_worker_on_one_folder_names_the_first(
    run: Run, north: Path, site_file: Path
) -> None:
    with StateFolder(north):
        # Another process: locks of one process do not exclude each other.
        done = subprocess.run(
            [sys.executable, "-m", "worker", "run", "--config", str(site_file), "--state", north],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"in use by process {os.getpid()}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_named(
    run: Run, lead: Coordinator, plan_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "second"
    home.initialise(folder, "small")
    ended = run(
        coordinator.cli.main, "start", "--state", folder, "--plan", plan_file,
        "--listen", lead.server.address,
    )  # fmt: skip
    assert ended.code == 1
    assert lead.server.address in ended.line
    assert "in use" in ended.line
    state = CoordinatorState(folder)
    assert state.study() is None, "a plan that was never served can still be mended"
    state.close()


def test_an_approval_without_a_name_is_no_approval(run: Run, tmp_path: Path) -> None:
    ended = run(worker.cli.main, "plan", "approve", "--state", tmp_path / "n")
    assert ended.code == 2
    assert "--as NAME" in ended.line


def test_a_worker_started_after_the_study_was_over_ends_at_once(
    run: Run, lead: Coordinator, north: Path, site_file: Path
) -> None:
    state = WorkerState(north)
    state.note(OVER, "all rounds are committed")
    state.close()
    lead.server.stop(0)  # nobody would answer
    assert run(worker.cli.main, "run", "--state", north, "--config", site_file).code == 0


def test_an_address_where_nobody_listens_is_named(
    run: Run, lead: Coordinator, tmp_path: Path
) -> None:
    code = lead.invite("north")
    lead.server.stop(0)
    ended = run(worker.cli.main, "enrol", code, "--state", tmp_path / "n")
    assert ended.code == 1
    assert lead.server.address in ended.line


def test_a_plan_for_another_study_is_refused(run: Run, plan_file: Path, tmp_path: Path) -> None:
    home.initialise(tmp_path / "c", "another")
    ended = run(
        coordinator.cli.main, "start", "--state", tmp_path / "c", "--plan", plan_file,
        "--listen", "127.0.0.1:1",
    )  # fmt: skip
    assert ended.code == 2
    assert "'another'" in ended.line


def test_a_folder_without_a_coordinator_says_how_to_make_one(run: Run, tmp_path: Path) -> None:
    ended = run(coordinator.cli.main, "status", "--state", tmp_path)
    assert ended.code == 1
    assert "primia-coordinator init" in ended.line


def test_state_that_is_open_to_others_is_refused(run: Run, north: Path, site_file: Path) -> None:
    north.chmod(0o755)
    ended = run(worker.cli.main, "run", "--config", site_file, "--state", north)
    assert ended.code == 1
    assert "chmod 700" in ended.line


def test_help_answers_within_half_a_second_of_processor_time() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "primia", "--help"], check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_a_new_identity_keeps_the_ledger_and_the_split(
    run: Run, lead: Coordinator, north: Path
) -> None:
    again = run(worker.cli.main, "enrol", lead.invite("south"), "--state", north)
    assert again.code == 1
    assert "the ledger beside it says what the patients have spent" in again.line
    kept = {name: (north / name).read_bytes() for name in ("ledger.db", "split.key")}
    struck = run(coordinator.cli.main, "roster", "--strike", "north", "--state", lead.folder)
    assert struck.code == 0
    (north / "identity").rename(north / "identity.old")
    ended = run(worker.cli.main, "enrol", lead.invite("north"), "--state", north)
    assert ended.code == 0, ended.err
    assert kept == {name: (north / name).read_bytes() for name in kept}


def test_half_a_fingerprint_is_called_that(run: Run, lead: Coordinator, tmp_path: Path) -> None:
    ended = run(
        worker.cli.main, "enrol", lead.invite("north"), "--state", tmp_path / "n",
        "--fingerprint", "ab:cd",
    )  # fmt: skip
    assert ended.code == 1
    assert "32 pairs" in ended.line


def test_status_names_the_sites_that_are_away(
    run: Run, lead: Coordinator, north: Path, plan_file: Path
) -> None:
    lead.pin(plan_file)
    shown = run(coordinator.cli.main, "status", "--state", lead.folder)
    assert shown.code == 0, shown.err
    assert "east (not enrolled)" in shown.out
    assert "no coordinator is running" in shown.out
