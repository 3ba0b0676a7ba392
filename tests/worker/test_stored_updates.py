"""What a worker keeps of its updates, and of a round whose end it did not hear of."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from primia.protocol.messages import AdvertiseKeys, Ready, Train
from primia.types import Ring, SiteId
from tests.attacks.hospitals import NAMES, Consortium, Hospital


def always_the_same(west: Hospital) -> None:
    """Its update has the same bytes in every round, ballot included."""
    fixed: Ring = np.arange(west.work.contribution.layout.length, dtype=np.uint32)

    class Fixed:
        def contribute(self, *_: object) -> Ring:
            return fixed.copy()

    object.__setattr__(west.work, "learning", Fixed())


def test_an_update_with_the_bytes_of_an_earlier_round_is_kept(tmp_path: Path) -> None:
    # Else the site ended: "blob … cannot be read", in a study whose model does not change any more.
    consortium = Consortium(tmp_path)
    west = consortium.hospitals[SiteId("west")]
    always_the_same(west)
    for number in (1, 2, 3):
        made = consortium.round_id(number, model=number - 1)
        assert any(isinstance(a, Ready) for a in west.tell(Train(made)))
        stored = west.state.update_for(made)
        assert stored is not None
        assert west.work.vector(stored).size


def test_updates_of_earlier_rounds_and_models_but_the_last_two_are_deleted(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path)
    west = consortium.hospitals[SiteId("west")]
    for number in (1, 2, 3):
        west.tell(Train(consortium.round_id(number, model=number - 1)))
        assert len(list(west.work.blobs)) == 1 + min(number, 2)


def test_a_round_whose_end_was_not_heard_of_is_closed_by_the_next_one(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path)
    west = consortium.hospitals[SiteId("west")]
    first = consortium.round_id(1)
    west.tell(Train(first))
    west.tell(AdvertiseKeys(first, tuple(SiteId(n) for n in sorted(NAMES))))
    assert west.state.journal.of(first) is not None
    west.participant._to_countersign = False

    west.tell(Train(consortium.round_id(2, model=1)))
    assert west.state.journal.of(first) is None
    assert west.participant._to_countersign
