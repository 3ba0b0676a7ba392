"""The simulation for real, in containers: isolation is probed, and containers are attacked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from project import OUT, Project, docker

ROOT = Path(__file__).parents[2]
SIMULATION = ROOT / "docker" / "simulation"
START_S = 1200  # images, start; seconds
RUN_S = 2400

pytestmark = [pytest.mark.docker, pytest.mark.timeout(START_S + RUN_S)]

DEMO = Project("primia-demo", ["compose.yaml"], ["hospital-a", "hospital-b", "hospital-c"])

# Runs in a container: what it may do and reach, as JSON.
PROBE = """
import json, os, pathlib, socket, stat, sys

def dial(host, port):
    try:
        socket.create_connection((host, port), 3).close()
        return "connected"
    except OSError as err:
        return type(err).__name__

def write(path):
    try:
        pathlib.Path(path, "probe").write_text("x")
        return "written"
    except OSError as err:
        return err.strerror

def mode(path):
    return oct(stat.S_IMODE(os.stat(path).st_mode))

status = dict(l.split(":\\t", 1) for l in open("/proc/1/status").read().splitlines() if ":\\t" in l)
state = os.environ["PRIMIA_STATE"]
codes = [
    str(p) for top in ("/var/lib/primia", "/films", "/tmp") for p in pathlib.Path(top).rglob("*")
    if p.is_file() and b"primia1-" in p.read_bytes()
]
folders = ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/opt/primia/bin")
programs = [p for folder in folders for p in pathlib.Path(folder).iterdir()]
unwanted = ("sh", "bash", "dash", "ash", "zsh", "busybox", "perl", "pip", "pip3", "apt", "dpkg")
print(json.dumps({
    "uid": os.getuid(),
    "capabilities": [status[c].strip() for c in ("CapEff", "CapPrm", "CapBnd")],
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "dialled": {t: dial(*t.rsplit(":", 1)) for t in sys.argv[1:]},
    "written": {p: write(p) for p in ("/", "/etc", "/opt/primia", "/films", "/etc/primia")},
    "modes": [mode(state + p) for p in ("", "/identity", "/identity/site.key")],
    "tools": [p.name for p in programs if p.name in unwanted],
    "setuid": [str(p) for p in programs if p.is_file() and p.stat().st_mode & 0o6000],
    "post": os.path.exists("/post"),
    "codes": codes,
}))
"""


def needs_engine() -> None:
    if shutil.which("docker") is None:
        pytest.skip("no docker command here")
    if subprocess.run(["docker", "info"], capture_output=True, timeout=60).returncode != 0:
        pytest.skip("no Docker Engine answers")


def start(script: str, log: Path) -> subprocess.Popen[bytes]:
    subprocess.run(["make", "wheelhouse"], cwd=ROOT, check=True, timeout=START_S)
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, str(SIMULATION / script)],
            stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip


def end(runner: subprocess.Popen[bytes], script: str) -> None:
    if runner.poll() is None:
        runner.kill()
        runner.wait()
        subprocess.run([sys.executable, str(SIMULATION / script), "down"], timeout=120)


def wait_for(service: str, event: str, runner: subprocess.Popen[bytes], seconds: float) -> str:
    """Wait until a service of the demonstration has logged `event`; gives its container."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and runner.poll() is None:
        listed = docker(
            "ps", "--all", "--quiet", f"--filter=label=com.docker.compose.project={DEMO.name}",
            f"--filter=label=com.docker.compose.service={service}",
            "--filter=label=com.docker.compose.oneoff=False",
        )  # fmt: skip
        if listed and any(e.name == event for e in DEMO.events(service)):
            return listed
        time.sleep(0.5)
    raise AssertionError(f"{service} did not log {event!r}")


def address(found: str) -> str:
    networks: dict[str, Any] = json.loads(
        docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", found)
    )
    (only,) = networks.values()
    return str(only["IPAddress"])


@dataclass(frozen=True)
class Story:
    """What was seen while the simulation ran, and what it left."""

    code: int
    output: str
    result: dict[str, Any]
    probe: dict[str, Any]  # in hospital-a, during round 1
    targets: dict[str, str]  # what it is → host:port
    well: dict[str, str]  # service → what the health check says
    shell: int  # exit code of asking an image for a shell
    listed: str  # the processes' command lines and environments, as the engine shows them


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """One run of the demonstration, probed on the way."""
    needs_engine()
    log = tmp_path_factory.mktemp("compose") / "log"
    runner = start("demo.py", log)
    try:
        yield _watch(runner, log)
    finally:
        end(runner, "demo.py")


def _watch(runner: subprocess.Popen[bytes], log: Path) -> Story:
    one = wait_for("hospital-a", "taking_part", runner, START_S)
    other = wait_for("hospital-b", "taking_part", runner, 300)
    wait_for("coordinator", "round_opened", runner, 300)
    targets = {
        "the coordinator": "coordinator:8443",
        "a hospital by name": "hospital-b:8443",
        "a hospital by address": f"{address(other)}:8443",
        "the world": "192.0.2.1:443",  # RFC 5737: nobody's address
    }
    probe = json.loads(docker("exec", one, "python", "-c", PROBE, *targets.values()))
    inspected = docker("inspect", *(DEMO.container(f"enrol-{x}") for x in "abc"), one)
    shell = subprocess.run(
        ["docker", "run", "--rm", "--network=none", "--entrypoint=sh", "primia-worker:local"],
        capture_output=True,
    ).returncode
    wait_for("coordinator", "round_committed", runner, RUN_S)
    services = ("coordinator", *DEMO.hospitals)
    well = {
        s: docker("inspect", "--format", "{{.State.Health.Status}}", DEMO.container(s))
        for s in services
    }
    code = runner.wait(RUN_S)
    result = json.loads((OUT / "result.json").read_text(encoding="utf-8"))
    return Story(code, log.read_text(), result, probe, targets, well, shell, inspected)


def test_the_study_ends_with_every_round_committed_once_and_a_report(story: Story) -> None:
    assert story.code == 0, story.output
    assert story.result["state"] == "finished"
    last = [m for m in story.result["models"] if m["scores"] is not None][-1]
    assert last["scores"]["auc"] > 0.7  # 0.90 to 0.95 in trials; an untrained model has 0.5
    assert max(s["epsilon"] for s in story.result["sites"]) <= 8.0
    assert "http://" not in (OUT / "report.html").read_text(encoding="utf-8").replace(
        "http://www.w3.org/", ""
    )
    assert (OUT / "model-best.safetensors").stat().st_size > 10_000


def test_a_hospital_reaches_the_coordinator_and_nobody_else(story: Story) -> None:
    dialled = {what: story.probe["dialled"][target] for what, target in story.targets.items()}
    assert dialled["the coordinator"] == "connected"
    assert dialled["a hospital by name"] == "gaierror"
    # A refused connection would mean that the packet got there.
    for what in ("a hospital by address", "the world"):
        assert dialled[what] in {"OSError", "TimeoutError"}, dialled


def test_a_worker_is_nobody_and_can_become_nobody_else(story: Story) -> None:
    assert story.probe["uid"] != 0
    assert {int(c, 16) for c in story.probe["capabilities"]} == {0}
    assert story.probe["no_new_privileges"] == "1"
    assert story.probe["setuid"] == []
    assert story.probe["modes"] == ["0o700", "0o700", "0o600"]


def test_a_worker_can_write_neither_its_root_nor_the_films(story: Story) -> None:
    assert set(story.probe["written"].values()) == {"Read-only file system"}


def test_the_images_hold_no_shell_and_no_installer(story: Story) -> None:
    assert story.shell == 127
    assert story.probe["tools"] == []


def test_no_code_is_left_in_a_volume_or_shown_by_the_engine(story: Story) -> None:
    assert story.probe["post"] is False
    assert story.probe["codes"] == []
    assert "primia1" not in story.listed


def test_the_health_checks_are_green_while_it_runs(story: Story) -> None:
    assert set(story.well.values()) == {"healthy"}


def test_nothing_is_left_of_the_simulation(story: Story) -> None:
    mine = f"--filter=label=com.docker.compose.project={DEMO.name}"
    assert story.code == 0
    for kind in ("container", "network", "volume"):
        everything = ["--all"] if kind == "container" else []
        assert docker(kind, "ls", "--quiet", *everything, mine) == ""


def test_a_study_under_attack_ends_with_every_round_committed_and_charged_once(
    tmp_path: Path,
) -> None:
    needs_engine()
    log = tmp_path / "log"
    runner = start("chaos.py", log)
    try:
        code = runner.wait(RUN_S)
    finally:
        end(runner, "chaos.py")
    assert code == 0, log.read_text()
    assert "survived 9 deeds" in log.read_text()
