"""The simulation for real, in containers: isolation is probed and a daemon killed on the way."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docker" / "out"
PROJECT = "primia-demo"
START_S = 900  # wheels, images, start; seconds
RUN_S = 1800

pytestmark = [pytest.mark.docker, pytest.mark.timeout(START_S + RUN_S)]

# Prints the name of the error, or "connected".
DIAL = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()
    print("connected")
except OSError as err:
    print(type(err).__name__, err.errno)
"""


def docker(*arguments: str) -> str:
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def container(service: str) -> str | None:
    """The id of a service's container, running or not."""
    labels = {"project": PROJECT, "service": service, "oneoff": "False"}
    filters = [f"--filter=label=com.docker.compose.{k}={v}" for k, v in labels.items()]
    return docker("ps", "--all", "--quiet", *filters) or None


def wait_for_log(service: str, text: str, runner: subprocess.Popen[str], seconds: float) -> str:
    """Wait until a service has logged `text`; gives its container."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and runner.poll() is None:
        found = container(service)
        if found is not None and text in _logs(found):
            return found
        time.sleep(0.3)
    raise AssertionError(f"{service} did not log {text!r}")


def _logs(found: str) -> str:
    done = subprocess.run(["docker", "logs", found], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def dial(source: str, host: str, port: int) -> str:
    return docker("exec", source, "python", "-c", DIAL, host, str(port))


def kill_from_outside(found: str) -> None:
    """`kill -9` as the kernel's out-of-memory killer does it: the engine did not ask for it."""
    pid = docker("inspect", "--format", "{{.State.Pid}}", found)
    docker(
        "run", "--rm", "--pid=host", "--user=0", "--network=none", "--entrypoint=sh",
        "primia-worker:local", "-c", f"kill -9 {pid}",
    )  # fmt: skip


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
    dialled: dict[str, str]
    inside: list[str]  # user, then modes of state folder, identity folder, key
    restarts: dict[str, int]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """One run of `make compose-demo`: probed in round 1, with two daemons killed on the way."""
    if shutil.which("docker") is None:
        pytest.skip("no docker command here")
    if subprocess.run(["docker", "info"], capture_output=True, timeout=60).returncode != 0:
        pytest.skip("no Docker Engine answers")
    log = tmp_path_factory.mktemp("compose") / "log"
    with log.open("w") as file:
        runner = subprocess.Popen(
            ["make", "compose-demo"], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, text=True
        )
        try:
            return _watch(runner, log)
        finally:
            if runner.poll() is None:
                runner.send_signal(signal.SIGTERM)
                runner.wait(60)
                subprocess.run(["make", "compose-down"], cwd=ROOT, capture_output=True, timeout=120)


def _watch(runner: subprocess.Popen[str], log: Path) -> Story:
    one = wait_for_log("hospital-a", "taking_part", runner, START_S)
    other = wait_for_log("hospital-b", "working", runner, 120)
    home = wait_for_log("coordinator", "round_opened", runner, 60)
    dialled = {
        "the coordinator": dial(one, "coordinator", 8443),
        "a hospital by name": dial(one, "hospital-b", 8443),
        "a hospital by address": dial(one, address(other), 8443),
        "the world": dial(one, "192.0.2.1", 443),  # RFC 5737: nobody's address
    }
    look = "id -u; cd $PRIMIA_STATE; stat -c %a . identity identity/site.key"
    inside = docker("exec", one, "sh", "-c", look).split()
    kill_from_outside(other)
    wait_for_log("coordinator", "round_committed", runner, RUN_S)
    kill_from_outside(home)
    wait_for_log("coordinator", "study_over", runner, RUN_S)
    restarts = {
        name: int(docker("inspect", "--format", "{{.RestartCount}}", found))
        for name, found in (("hospital-b", other), ("coordinator", home))
    }
    code = runner.wait(300)
    result = json.loads((OUT / "result.json").read_text(encoding="utf-8"))
    return Story(code, log.read_text(), result, dialled, inside, restarts)


def test_the_study_ends_with_every_round_committed_once_and_a_report(story: Story) -> None:
    assert story.code == 0, story.output
    assert story.result["state"] == "finished"
    committed = [
        a["number"]
        for a in story.result["attempts"]
        if a["outcome"] == "committed" and a["kind"] == "train"
    ]
    assert committed == list(range(1, story.result["plan"]["rounds"] + 1))
    last = [m for m in story.result["models"] if m["scores"] is not None][-1]
    assert last["scores"]["auc"] > 0.7  # 0.90 to 0.95 in trials; an untrained model has 0.5
    assert max(s["epsilon"] for s in story.result["sites"]) <= 8.0
    assert "http://" not in (OUT / "report.html").read_text(encoding="utf-8").replace(
        "http://www.w3.org/", ""
    )
    assert (OUT / "model-best.safetensors").stat().st_size > 10_000


def test_a_hospital_reaches_the_coordinator_and_nobody_else(story: Story) -> None:
    assert story.dialled["the coordinator"] == "connected"
    assert story.dialled["a hospital by name"].startswith("gaierror")
    # A refused connection would mean that the packet got there.
    for target in ("a hospital by address", "the world"):
        assert story.dialled[target].split()[0] in {"OSError", "TimeoutError"}, story.dialled


def test_a_killed_coordinator_and_a_killed_hospital_come_back_by_themselves(story: Story) -> None:
    assert story.restarts == {"hospital-b": 1, "coordinator": 1}


def test_the_worker_is_not_root_and_its_key_is_its_own(story: Story) -> None:
    user, *modes = story.inside
    assert user != "0"
    assert modes == ["700", "700", "600"]


def test_nothing_is_left_of_the_simulation(story: Story) -> None:
    mine = f"--filter=label=com.docker.compose.project={PROJECT}"
    assert story.code == 0
    for kind in ("container", "network", "volume"):
        everything = ["--all"] if kind == "container" else []
        assert docker(kind, "ls", "--quiet", *everything, mine) == ""
