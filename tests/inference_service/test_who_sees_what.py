"""Attacks on what the roles keep and say."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from primia.infer.dealer import WAITS_S, DealerService
from primia.infer.dealer_store import DealerStore
from tests.inference_service import toy
from tests.inference_service.conftest import World


class Recording(toy.Toy):
    """Remembers every seed."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds: set[bytes] = set()
        self.mask_seeds: set[bytes] = set()

    def deal(self, program, mask_seed, seed0, seed1, films, noise, profile):  # type: ignore[no-untyped-def]
        self.mask_seeds.add(mask_seed)
        self.seeds |= {seed0, seed1}
        return super().deal(program, mask_seed, seed0, seed1, films, noise, profile)


def forms(secret: bytes) -> list[bytes]:
    return [
        secret,
        secret.hex().encode(),
        base64.b64encode(secret)[:40],
        repr(secret)[2:-1].encode(),
    ]


def everything_below(folder: Path) -> bytes:
    return b"\0".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())


@pytest.fixture
def recorded(world: World) -> Recording:
    engine = Recording()
    world.engine = engine
    world.stop("dealer")
    world.start_dealer()
    world.restart_model()
    return engine


def test_after_a_prediction_no_seed_film_or_answer_is_in_any_log_or_file(
    world: World, recorded: Recording, capfd: pytest.CaptureFixture[str]
) -> None:
    films = toy.films(2)
    with world.owner() as owner:
        owner.stock(20)  # with one opened
        while sum(owner.store.stocked().values()):
            owner.ask(films[:1], 1)
    said = "".join(capfd.readouterr()).encode()
    assert b"prediction_ended" in said
    logs = said + b"".join(p.read_bytes() for p in world.root.rglob("audit.jsonl"))
    disk = everything_below(world.root)
    assert len(recorded.seeds) >= 40
    for seed in recorded.seeds:
        for form in forms(seed):
            assert form not in logs
            assert form not in disk
    for seed in recorded.mask_seeds:
        assert not any(form in logs for form in forms(seed))
        assert seed not in everything_below(world.root / "dealer")
        assert seed not in everything_below(world.root / "hospital")
    answer = toy.expected(films)[0]
    for form in (str(answer).encode(), answer.to_bytes(8, "little")):
        assert form not in logs
        assert form not in disk
    assert films[0].tobytes()[:64] not in disk


def test_the_dealer_hears_nothing_of_a_prediction_and_keeps_nothing_of_a_batch(
    world: World, recorded: Recording
) -> None:
    with world.owner() as owner:
        owner.stock(1)
        service: DealerService = world.dealer_service
        assert service.waiting() == 0
        before = everything_below(world.root / "dealer")
        calls: list[str] = []
        for name in ("deal", "collect", "authorise", "dealt"):
            setattr(service, name, lambda *_a, _n=name: calls.append(_n))
        owner.ask(toy.films(1), 1)
    assert calls == []
    assert everything_below(world.root / "dealer") == before


def test_seeds_that_nobody_collects_are_dropped(tmp_path: Path) -> None:
    from primia.errors import PeerError
    from primia.identity.certificate import Identity, Role
    from primia.inference.program import to_json
    from primia.wire.inference_handler import Order

    now = [0.0]
    service = DealerService(DealerStore(tmp_path), "chest", toy.Toy(), lambda: now[0])  # type: ignore[arg-type]
    owner = Identity(Role.MODEL, "chest")
    order = Order(to_json(toy.program()), bytes(32), Identity(Role.SITE, "a"), "ab", 1, (1,))
    batch, _ = service.deal(owner, order)
    service.dealt(batch.batch)
    assert service.waiting() == 1
    now[0] = WAITS_S + 1
    assert service.waiting() == 0
    with pytest.raises(PeerError, match="no such batch waits here"):
        service.collect(Identity(Role.SITE, "a"), None, batch.batch)  # type: ignore[arg-type]


def test_two_queries_of_one_film_share_no_frame(world: World) -> None:
    sent: list[bytes] = []

    class Listening(toy.Toy):
        def data_party(self, *args):  # type: ignore[no-untyped-def]
            machine = super().data_party(*args)
            step = next(machine)
            while True:
                sent.append(step.send)
                try:
                    step = machine.send((yield step))
                except StopIteration as end:
                    return end.value

    with world.owner(engine=Listening()) as owner:
        owner.ask(toy.films(1), 1)
        owner.ask(toy.films(1), 1)
    assert len(sent) == 2 * toy.STEPS
    first, second = (
        {m[i : i + 8] for m in half for i in range(0, len(m), 8)} for half in (sent[:3], sent[3:])
    )
    assert not first & second
