"""One data owner that takes what is there for all."""

from __future__ import annotations

from pathlib import Path

import pytest

from primia.errors import TooManyCalls
from primia.identity.certificate import Identity, Role
from primia.infer.dealer import DealerService
from primia.infer.dealer_store import DealerStore
from primia.inference.program import to_json
from primia.wire.inference_handler import Order
from tests.inference_service import toy


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
