"""Retries and what may be counted in them; weights and colluders that a lie would stretch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hospitals import NAMES, Consortium, plan

from primia.errors import ConfigError, RoundFailed
from primia.federation.contribution import Contribution
from primia.protocol.events import Abort, Commit
from primia.protocol.messages import AdvertiseKeys, RoundKind, Train
from primia.secagg.topology import COLLUDING, COMPLETE_UP_TO, threshold
from primia.types import SiteId

THREE = ("east", "north", "south")
SHARED: dict[str, Any] = {
    "privacy": {"noise_multiplier": 2.0, "delta": 1e-3, "noise": "distributed"},
    "training": {
        "patient_sampling_rate": 0.5, "local_steps": 1, "expected_patients": 5,
        "learning_rate": 1.0,
    },
}  # fmt: skip


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    return Consortium(tmp_path)


@pytest.fixture
def sharing(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Consortium:
    made = plan(**SHARED)
    monkeypatch.setattr("hospitals.plan", lambda: made)
    return Consortium(tmp_path_factory.mktemp("sharing"))


@pytest.mark.parametrize(("kind", "opened"), [(RoundKind.TRAIN, 1), (RoundKind.RETRAIN, 3)])
def test_a_share_of_noise_is_in_one_sum_whatever_the_attempts_are_numbered(
    sharing: Consortium, kind: RoundKind, opened: int
) -> None:
    west = sharing.hospitals[SiteId("west")]
    early = replace(sharing.round_id(kind=kind), attempt=2**40)
    west.tell(Train(early))  # an attempt that never goes on
    tries = [sharing.run(sharing.round_id(kind=kind)) for _ in range(3)]
    sums = [t for t in tries if isinstance(t, Commit) and "west" in t.contributors]
    # Were west's gradients, under one and the same share, in several sums beside fresh shares of
    # others, their mean would hold one share, where the price of each sum is that of two.
    assert len(sums) == opened
    assert len(west.ledger.rows()) == len(sums)


def test_a_share_that_keys_were_made_for_is_retired_after_a_restart(sharing: Consortium) -> None:
    west = sharing.hospitals[SiteId("west")]
    for _ in range(2):
        attempt = sharing.round_id()
        west.tell(Train(attempt))
        west.tell(AdvertiseKeys(attempt, tuple(sharing.hospitals)))
        west.state.close()
        west.start()
    assert len(west.ledger.rows()) == 2


def test_a_promise_made_for_a_retired_share_does_not_bind_its_successor(
    sharing: Consortium,
) -> None:
    assert isinstance(sharing.run(sharing.round_id()), Commit)  # said to have failed
    fewer = sharing.run(sharing.round_id(kind=RoundKind.RETRAIN), THREE)
    assert isinstance(fewer, Commit)  # all three trained anew: the old promise is about nothing
    for site in THREE:
        assert len(sharing.hospitals[SiteId(site)].ledger.rows()) == 2


@pytest.mark.parametrize("noise", ["site", "distributed"])
def test_a_model_trained_on_again_is_not_counted_over_other_sites(
    consortium: Consortium, sharing: Consortium, noise: str
) -> None:
    study = consortium if noise == "site" else sharing
    first = study.run(study.round_id())  # said to have failed
    assert isinstance(first, Commit)
    tries = [study.run(study.round_id(), THREE) for _ in range(3)]
    assert not [t for t in tries if isinstance(t, Commit)]
    again = study.run(study.round_id(kind=RoundKind.RETRAIN), THREE)
    assert isinstance(again, Commit), "the study goes on without west"
    terms = study.hospitals[SiteId("west")].work.contribution
    sums = terms.decode(again.totals[0], contributors=3)
    assert sums.mean_update.any()
    assert not sums.metrics.any()
    assert sums.votes == 3
    assert isinstance(study.run(study.round_id(), THREE), Abort), "and never back"
    for site in THREE:
        assert len(study.hospitals[SiteId(site)].ledger.rows()) == 2


def test_a_site_that_signed_for_nothing_trains_again_with_the_others(
    consortium: Consortium,
) -> None:
    """It holds an update that it offered in vain: of its films, too, no second count leaves."""
    late = consortium.hospitals[SiteId("west")]
    late.tell(Train(consortium.round_id()))
    assert isinstance(consortium.run(consortium.round_id(), THREE), Commit)  # said to have failed
    again = consortium.run(consortium.round_id(kind=RoundKind.RETRAIN))
    assert isinstance(again, Commit)
    assert "west" in again.contributors
    assert not late.metrics_of(again.totals[0]).any()


def test_after_a_signature_the_same_sites_get_the_same_sum_and_no_charge(
    consortium: Consortium,
) -> None:
    sums = []
    for _ in range(2):
        tried = consortium.run(consortium.round_id(), THREE)
        assert isinstance(tried, Commit)
        sums.append(tried.totals[0])
        consortium.run(consortium.round_id(), NAMES)  # nobody masks it among others
    assert np.array_equal(sums[0], sums[1])
    for site in THREE:
        assert len(consortium.hospitals[SiteId(site)].ledger.rows()) == 1


@pytest.mark.parametrize(
    ("sites", "quorum", "colluding"),
    [(10, 6, None), (7, 5, 3), (100, 70, None), (150, 120, None), (1000, 700, 300)],
)
def test_no_plan_prices_more_colluding_sites_than_its_masks_withstand(
    sites: int, quorum: int, colluding: int | None
) -> None:
    """A lying coordinator goes on with any n from the quorum up, and calls one of them lost."""
    names = [f"site-{i:04d}" for i in range(sites)]
    privacy = {**SHARED["privacy"], "colluding_sites": colluding}
    terms = {"sites": names, "schedule": {"quorum": quorum}, **SHARED, "privacy": privacy}
    try:
        made = plan(**terms)
    except (ValueError, ConfigError):
        return  # refused: good
    for n in range(quorum + 1, sites + 1):
        if n <= COMPLETE_UP_TO:
            assert 2 * threshold(n) > n + made.colluding_sites, n
        else:
            assert made.colluding_sites <= COLLUDING * n, n


def test_a_weight_below_zero_does_not_blow_up_the_mean() -> None:
    """Three honest sites of 500 patients; the fourth, within the mask, claims -1496."""
    terms = Contribution(parameters=4, metrics=2, bits=22, value_range=4.0, max_weight=1000)
    layout, nothing = terms.layout, np.zeros(2, np.int64)
    update = np.full(4, 0.1, np.float32)
    total = np.zeros(layout.length, np.uint32)
    for weight in (500, 500, 500, 1):
        words, _ = terms.encode(update, weight=weight, metrics=nothing)
        total += words
    total[layout.slice("weight")] = 4
    with pytest.raises(RoundFailed):  # the honest mean is 0.1; this one is 37.5
        terms.decode(total, contributors=4)
