"""Real processes, killed with SIGKILL in the middle: nothing is answered, nothing used again."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from primia.errors import Unreachable
from primia.infer.data_owner import DataOwner
from primia.infer.data_store import DataStore
from primia.infer.model_store import ModelStore
from primia.types import SiteId
from tests.inference_service import toy
from tests.inference_service.conftest import World

ROOT = Path(__file__).parents[2]
PATIENCE_S = 90.0
HOSPITAL = SiteId("hospital")


class Cast:
    """Enrolled folders, and the roles as processes."""

    def __init__(self, world: World) -> None:
        self.root = world.root
        self.version = world.program.model_version
        self.model_port, self.dealer_port = world.model_port, world.dealer_port
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self.root / f"{arguments[0]}-{secrets.token_hex(2)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.inference_service.roles", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )
        self.processes.append(process)
        return process

    def model(self, *stop: str) -> subprocess.Popen[bytes]:
        process = self.start(
            "model", str(self.root / "model"), f"127.0.0.1:{self.model_port}",
            f"127.0.0.1:{self.dealer_port}", self.version, *stop,
        )  # fmt: skip
        self._wait_listening(self.model_port, process)
        return process

    def dealer(self, *stop: str) -> subprocess.Popen[bytes]:
        process = self.start(
            "dealer", str(self.root / "dealer"), f"127.0.0.1:{self.dealer_port}", *stop
        )
        self._wait_listening(self.dealer_port, process)
        return process

    def owner(self) -> DataOwner:
        return DataOwner(self.root / "hospital", toy.Toy())  # type: ignore[arg-type]

    def spent(self) -> tuple[int, int]:
        """Sessions spent at the data owner and queries charged at the model owner."""
        data, model = DataStore(self.root / "hospital"), ModelStore(self.root / "model")
        with data._db.transaction() as db:
            (count,) = db.execute("SELECT count(*) FROM sessions WHERE state = 'spent'").fetchone()
        found = count, model.budget(HOSPITAL).asked
        data.close()
        model.close()
        return found

    def _wait_listening(self, port: int, process: subprocess.Popen[bytes]) -> None:
        wait_until(lambda: process.poll() is not None or not _refused(port))
        assert process.poll() is None


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return True
    return False


def wait_until(holds: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def ask(owner: DataOwner) -> None:
    films = toy.films()
    found = [int(v) for v in owner.ask(films, 1)[0]]  # type: ignore[attr-defined]
    assert found == toy.expected(films)


@pytest.fixture
def cast(world: World) -> Iterator[Cast]:
    made = Cast(world)
    for name in list(world.running):
        world.stop(name)
    yield made
    for process in made.processes:
        if process.poll() is None:
            kill(process)


pytestmark = pytest.mark.processes


def test_a_model_owner_killed_in_mid_prediction(cast: Cast, tmp_path: Path) -> None:
    cast.dealer()
    reached = tmp_path / "reached"
    model = cast.model(str(reached))
    with cast.owner() as owner:
        owner.stock(2)
        failed: list[BaseException] = []

        def run() -> None:
            try:
                ask(owner)
            except BaseException as err:
                failed.append(err)

        asking = threading.Thread(target=run)
        asking.start()
        wait_until(reached.exists)
        kill(model)
        asking.join(PATIENCE_S)
    assert len(failed) == 1
    assert isinstance(failed[0], Unreachable)
    assert "connection to the model owner" in str(failed[0])
    assert "broke half-way" in str(failed[0])
    assert cast.spent() == (1, 1)
    cast.model()
    with cast.owner() as owner:
        ask(owner)
    assert cast.spent() == (2, 2)
    assert not list((cast.root / "model" / "material").iterdir())


def test_a_data_owner_killed_in_mid_prediction(cast: Cast, tmp_path: Path) -> None:
    cast.dealer()
    cast.model()
    with cast.owner() as owner:
        owner.stock(2)
    reached = tmp_path / "reached"
    asking = cast.start("ask", str(cast.root / "hospital"), str(reached))
    wait_until(reached.exists)
    kill(asking)
    assert cast.spent() == (1, 1)
    assert cast.start("ask", str(cast.root / "hospital")).wait(PATIENCE_S) == 0
    assert cast.spent() == (2, 2)
    assert not list((cast.root / "hospital" / "material").iterdir())


def test_a_dealer_killed_in_the_middle_of_a_batch(cast: Cast, tmp_path: Path) -> None:
    cast.model()
    reached = tmp_path / "reached"
    dealer = cast.dealer(str(reached))
    with cast.owner() as owner:
        failed: list[BaseException] = []

        def run() -> None:
            try:
                owner.stock(2)
            except BaseException as err:
                failed.append(err)

        stocking = threading.Thread(target=run)
        stocking.start()
        wait_until(reached.exists)
        kill(dealer)
        stocking.join(PATIENCE_S)
        assert isinstance(failed[0], Unreachable)
        assert "connection to the dealer" in str(failed[0])
        assert owner.store.stocked() == {}
    assert not list((cast.root / "model" / "material").iterdir())
    assert cast.spent() == (0, 0)
    cast.dealer()
    with cast.owner() as owner:
        ask(owner)


def test_servers_that_are_told_to_stop_say_that_they_did(cast: Cast) -> None:
    for process in (cast.dealer(), cast.model()):
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    logs = {log.name.split("-")[0]: log.read_text() for log in cast.root.glob("*.log")}
    assert logs.keys() == {"dealer", "model"}
    assert all('"event": "stopped"' in text for text in logs.values()), logs
