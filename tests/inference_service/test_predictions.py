"""The three roles together: what is answered, and what each way to fail says."""

from __future__ import annotations

from tests.inference_service import toy
from tests.inference_service.conftest import World


def test_a_data_owner_asks_and_a_batch_is_dealt_on_demand(world: World) -> None:
    films = toy.films(3)
    with world.owner() as owner:
        answers = owner.ask(films, batch=3)
    assert answers[0].tolist() == toy.expected(films)


def test_stocked_sessions_need_no_dealer(world: World) -> None:
    with world.owner() as owner:
        assert owner.stock(4) == 4
    world.stop("dealer")
    films = toy.films(4)
    with world.owner() as owner:
        answers = owner.ask(films, batch=4)
    assert [int(a[0]) for a in answers] == toy.expected(films)
