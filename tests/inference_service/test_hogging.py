"""One data owner that takes what is there for all."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from primia.errors import BudgetExhausted, PeerError, TooManyCalls
from primia.identity.certificate import Identity, Role
from primia.infer.dealer import DealerService
from primia.infer.dealer_store import DealerStore
from primia.infer.model_store import ModelStore
from primia.infer.turns import Turns
from primia.inference.program import to_json
from primia.types import SiteId
from primia.wire.inference_handler import Order
from primia.wire.inference_servicer import _piece
from primia.wire.v1 import inference_pb2 as pb
from tests.inference_service import toy
from tests.inference_service.conftest import World
from tests.inference_service.test_stores import PROGRAM, SITE, model_with


def test_a_data_owner_that_never_collects_does_not_keep_others_from_the_dealer(
    tmp_path: Path,
) -> None:
    service = DealerService(DealerStore(tmp_path), "chest", toy.Toy(), lambda: 0.0)
    owner = Identity(Role.MODEL, "chest")

    def order(site: str) -> Order:
        return Order(to_json(toy.program()), bytes(32), Identity(Role.SITE, site), "ab", 1, (1,))

    for _ in range(10):
        service.deal(owner, order("hoarder"))
    with pytest.raises(TooManyCalls, match="hoarder left 10 batches"):
        service.deal(owner, order("hoarder"))
    service.deal(owner, order("other"))


def room(store: ModelStore, *, films: int, sessions: int, opened: int = 0) -> tuple[int, ...]:
    return store.order(SITE, PROGRAM, films, sessions, opened)


def test_nobody_stocks_more_than_one_session_beyond_what_may_be_asked(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    store.set_budget(SITE, films=10, per_day=None)
    with pytest.raises(BudgetExhausted, match="Stock fewer"):
        room(store, films=64, sessions=1000)
    numbers = room(store, films=1, sessions=11, opened=1)
    with pytest.raises(BudgetExhausted, match="material for 11 films stocked and may ask about 10"):
        room(store, films=1, sessions=2)
    store.cancel(numbers)
    assert room(store, films=4, sessions=3), "what broke off takes no room"
    with pytest.raises(BudgetExhausted):
        room(store, films=1, sessions=1)


def test_what_a_data_owner_throws_away_makes_room(tmp_path: Path) -> None:
    store, made = model_with(tmp_path, 4)
    store.set_budget(SITE, films=2, per_day=None)
    with pytest.raises(BudgetExhausted):
        room(store, films=1, sessions=1)
    store.discard(SITE, [s.session for s in made.sessions])
    assert room(store, films=1, sessions=1)
    assert not any((tmp_path / "material").iterdir())


def test_one_data_owner_holds_one_turn_and_leaves_the_others_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("primia.infer.turns.QUEUE_S", 0.01)
    turns, other, third = Turns(), SiteId("other"), SiteId("third")
    with turns.turn(SITE):
        with pytest.raises(TooManyCalls), turns.turn(SITE):
            pass
        with turns.turn(other), pytest.raises(TooManyCalls), turns.turn(third):
            pass
        with turns.turn(third):
            pass
    with turns.turn(SITE):
        pass


def test_frames_that_trickle_end_with_the_predictions_time() -> None:
    message = pb.AskRequest(piece=pb.Piece())
    assert _piece(message, time.monotonic() + 60) == message.piece
    with pytest.raises(PeerError, match="took over 30 minutes"):
        _piece(message, time.monotonic() - 1)


def test_weights_that_the_program_has_no_room_for_are_not_fetched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.owner() as owner:
        described = owner._description
        monkeypatch.setattr(owner, "_description", replace(described, given_size=1 << 40))
        with pytest.raises(PeerError, match="nothing was fetched"):
            owner.given(heavy=True)
        assert not (world.root / "hospital" / "given").exists()
        monkeypatch.setattr(owner, "_description", described)
        assert owner.given(heavy=True)


def test_a_batch_that_nobody_opens_is_dropped_in_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.owner() as owner:
        monkeypatch.setattr(owner, "_open", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            owner.stock(3)
    material = world.root / "model" / "material"
    assert len(list(material.iterdir())) == 3
    monkeypatch.setattr("primia.infer.model.HELD_S", -1.0)
    with world.owner() as owner:
        owner.stock(2)
    assert len(list(material.iterdir())) == 2
