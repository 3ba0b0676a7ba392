"""A model owner, a dealer and a data owner in one process, with real folders and real gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from primia.identity.certificate import Role
from primia.infer import home
from primia.infer.data_owner import DataOwner
from primia.infer.dealer_store import DealerStore
from primia.infer.model import prepare_serving
from primia.infer.serving import dealer_service, start_dealer, start_model
from primia.types import Digest, SiteId, sha256
from primia.wire.inference_handler import Terms
from primia.wire.server import Server
from tests.inference_service import toy


class World:
    """Three folders below `root`; servers are started and stopped by name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.engine = toy.Toy()
        self.program = toy.program()
        self.weights: dict[str, Any] = toy.weights()
        self.model_port = self.dealer_port = 0
        self.terms = Terms()
        self.running: dict[str, tuple[Server, Any]] = {}
        home.initialise(root / "model", "chest")

    def start_model(self) -> None:
        book, own = home.open_model(self.root / "model")
        digest: Digest = sha256(b"".join(w.tobytes() for w in self.weights.values()))
        served = prepare_serving(
            self.root / "model", book, self.engine, self.program, self.weights, digest
        )
        server = start_model(
            self.root / "model", book, own, served, f"127.0.0.1:{self.model_port}",
            f"127.0.0.1:{self.dealer_port or 1}", self.engine, self.terms,
        )  # fmt: skip
        self.model_port = server.port
        self.running["model"] = server, book

    def start_dealer(self) -> None:
        own = home.load(self.root / "dealer", Role.DEALER)
        book = DealerStore(self.root / "dealer")
        self.dealer_service = dealer_service(book, self.engine)
        server = start_dealer(self.dealer_service, own, f"127.0.0.1:{self.dealer_port}")
        self.dealer_port = server.port
        self.running["dealer"] = server, book

    def stop(self, name: str) -> None:
        server, book = self.running.pop(name)
        server.stop(0)
        book.close()

    def restart_model(self) -> None:
        self.stop("model")
        self.start_model()

    def enrol(self, name: str, role: str = "data-owner", **budget: int) -> None:
        made = home.invite(
            self.root / "model", role, SiteId(name), f"127.0.0.1:{self.model_port}", **budget
        )
        home.enrol(self.root / name, made.invitation.code(), made.fingerprint)

    def owner(self, name: str = "hospital", engine: toy.Toy | None = None) -> DataOwner:
        return DataOwner(self.root / name, engine or self.engine)

    @property
    def book(self) -> Any:
        return self.running["model"][1]


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[World]:
    """Nobody is enrolled but the dealer."""
    world = World(tmp_path)
    world.start_model()
    world.enrol("dealer", "dealer")
    world.start_dealer()
    world.restart_model()  # which now knows the dealer's port
    yield world
    for name in list(world.running):
        world.stop(name)


@pytest.fixture
def world(bare: World) -> World:
    bare.enrol("hospital")
    return bare
