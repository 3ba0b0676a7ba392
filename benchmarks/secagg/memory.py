"""What a coordinator holds while n sites upload, by the peak of its resident memory.

    python -m benchmarks.secagg.memory FOLDER N LENGTH WIRE_BITS    (`peak` starts it)

The coordinator is a process with the product's server, spool, service and round machine, brought
to the phase that awaits the vectors. The sites upload from another process, several at once.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.secagg.rounds import ROUND, Game
from benchmarks.secagg.transport import ROOT, client_tls, make_certificates, server_tls
from benchmarks.secagg.vectors import contribution
from coordinator.service import Service
from primia.protocol.coordinator import CoordinatorRound
from primia.protocol.events import Phase, UpdateArrived
from primia.protocol.messages import RoundId
from primia.secagg.packing import Packed
from primia.types import Digest, SiteId
from primia.wire.client import FederationClient
from primia.wire.handler import UploadKey
from primia.wire.server import serve

AT_ONCE = 4
"""Sites that upload at the same time."""


def peak(sites: int, length: int, wire_bits: int) -> float:
    """Memory at its highest beyond what was held before, in vectors of `length` 32-bit words."""
    layout = contribution(length, wire_bits).layout
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        game = Game(sites, contribution(1, wire_bits).layout)
        make_certificates(folder, game.names)
        command = [sys.executable, "-m", "benchmarks.secagg.memory", name]
        command += [str(sites), str(length), str(wire_bits)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        port, session = json.loads(process.stdout.readline())
        key, data = UploadKey(ROUND, bytes.fromhex(session)), os.urandom(layout.wire_bytes)

        def upload(site: SiteId) -> None:
            client = FederationClient(f"127.0.0.1:{port}", client_tls(folder, site))
            client.upload(key, data)
            client.close()

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(upload, game.names))
        last, _ = process.communicate()  # it ends with its input
    return int(last) / (4 * length)


class Driver:
    """As much of a `RoundDriver` as uploads need."""

    def __init__(self, machine: CoordinatorRound) -> None:
        self._machine = machine
        self.terms = machine.terms.round  # names the plan
        self._lock = threading.Lock()

    def update_arrived(self, site: SiteId, _: RoundId, packed: Packed, digest: Digest) -> None:
        with self._lock:
            self._machine.handle(UpdateArrived(site, packed, digest), 0.0)

    def holds_update(self, *_: Any) -> bool:
        return False

    def upload_limit(self, *_: Any) -> int:
        return self._machine.terms.layout.wire_bytes

    def progress(self, _: SiteId) -> None: ...


class State:
    """Takes every site for enrolled."""

    audit = troubles = None  # nobody is refused

    def check_site(self, *_: Any) -> None: ...

    def check_standing(self, *_: Any) -> None: ...

    def struck(self) -> set[SiteId]:
        return set()


def _coordinate(folder: Path, sites: int, length: int, wire_bits: int) -> None:
    layout = contribution(length, wire_bits).layout
    game = Game(sites, layout, words=np.zeros(layout.length, np.uint32))
    game.play(until=Phase.MASKED_UPDATE)
    game.say_masked()
    machine = game.machine
    del game
    gc.collect()
    stand_ins: tuple[Any, Any, Any] = State(), None, Driver(machine)
    service = Service(folder, *stand_ins, lambda: False)
    tls = server_tls(folder)
    with serve(service, listen="127.0.0.1:0", tls=lambda: tls) as server:
        held = _status_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): forgets the peak
        print(json.dumps([server.port, machine.session.hex()]), flush=True)
        sys.stdin.read()
        assert machine.phase is Phase.SURVIVORS, machine.phase
        print(_status_bytes("VmHWM") - held)


def _status_bytes(key: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    _coordinate(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
