"""Messages and plans that must not do harm (rows M01 to M18, P07)."""

from __future__ import annotations

import copy
import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from primia.demo.fleet import command
from primia.identity.certificate import COORDINATOR_HOST
from primia.wire.channel import MAX_MESSAGE
from primia.wire.v1 import federation_pb2 as pb
from primia.wire.v1 import federation_pb2_grpc
from tests.faults.ward import FOUR, Ward
from tests.processes.federation import plan

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1))  # type: ignore[union-attr]


def test_m01_m02_a_huge_message_and_garbage_do_not_disturb_the_service(ward: Ward) -> None:
    daemon = ward.start_coordinator()
    home = ward.folder / "north" / "identity"
    files = [(home / name).read_bytes() for name in ("authority.pem", "site.key", "site.pem")]
    channel = grpc.secure_channel(
        f"127.0.0.1:{ward.port}",
        grpc.ssl_channel_credentials(*files),
        options=[
            ("grpc.ssl_target_name_override", COORDINATOR_HOST),
            ("grpc.max_send_message_length", -1),
        ],
    )
    with channel:
        stub = federation_pb2_grpc.FederationStub(channel)
        stub.GetStudy(pb.GetStudyRequest(), timeout=30)
        before = peak_bytes(daemon.process.pid)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.FetchModel(pb.FetchRequest(digest=bytes(200 << 20)), timeout=120))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert peak_bytes(daemon.process.pid) - before < 2 * MAX_MESSAGE
        for garbage in (
            os.urandom(4096),
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01",
            b"\x17\x03\x03\xff\xff",
        ):
            with socket.create_connection(("127.0.0.1", ward.port)) as link:
                link.sendall(garbage)
            assert stub.GetStudy(pb.GetStudyRequest(), timeout=30).plan
    ward.terminate("coordinator")
    assert "Traceback" not in ward.said("coordinator")


@pytest.mark.parametrize("change", [-4, 4])
def test_m06_vectors_of_another_length_are_refused_and_the_others_go_on(
    ward: Ward, change: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIMIA_TEST_BYTES", str(change))
    ward.start_coordinator()
    ward.start_all("west")
    ward.start_worker("west", "tests.faults.sends_wrong_length")
    event = ward.wait_for(ward.daemons["west"], "round_left")
    assert "bytes" in event["reason"]
    assert "vectors of west" in event["reason"] or "plan allows" in event["reason"]
    ward.wait_for(ward.coordinator, "round_committed", round=1)
    first = next(a for a in ward.attempts() if a["outcome"] == "committed")
    assert first["contributors"] == ["east", "north", "south"]
    ward.check(finished=False)


BAD_PLANS: dict[str, tuple[str, Any]] = {
    "infinite": ("target_epsilon", float("inf")),
    "not a number": ("target_epsilon", float("nan")),
    "negative": ("target_epsilon", -1),
    "text": ("target_epsilon", "1"),
    "unknown key": ("epsilon", 1.0),
    "misspelt": ("noise_multiplyer", 1.0),
}


def test_m13_m18_bad_plans_are_refused_by_key_before_anything_is_signed(tmp_path: Path) -> None:
    good = plan(FOUR)
    texts: dict[str, tuple[str, str]] = {}
    for name, (key, value) in BAD_PLANS.items():
        bad = copy.deepcopy(good)
        bad["privacy"] = {"delta": 1e-3, "target_epsilon": 3.0} | {key: value}
        texts[name] = (key, yaml.safe_dump(bad))
    doubled = yaml.safe_dump(good).replace("rounds: 2", "rounds: 2\nrounds: 3")
    texts["repeated key"] = ("rounds", doubled)
    texts["two sites"] = ("sites", yaml.safe_dump(plan(["north", "south"])))
    few = plan(FOUR)
    few["schedule"]["quorum"] = 2
    texts["quorum of two"] = ("quorum", yaml.safe_dump(few))

    def refused(item: tuple[str, tuple[str, str]]) -> str:
        name, (key, text) = item
        file = tmp_path / f"{name}.yaml"
        file.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "primia", "plan", "check", str(file)],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode != 2 or key not in done.stderr or "Traceback" in done.stderr:
            return f"{name}: {done.returncode} {done.stdout} {done.stderr}"
        return ""

    with ThreadPoolExecutor(2) as pool:
        wrong = [text for text in pool.map(refused, texts.items()) if text]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", ["worker", "coordinator"])
def test_p07_no_daemon_runs_deterministically(ward: Ward, module: str) -> None:
    arguments = (
        ("run", "--config", str(ward.folder / "north.yaml"), "--state", str(ward.folder / "north"))
        if module == "worker"
        else ("start", "--state", str(ward.home))
    )
    done = subprocess.run(
        command(module, *arguments, "--deterministic"), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "--deterministic" in done.stderr
