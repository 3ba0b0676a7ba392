"""Noise that the sites add together: whole rounds, and that no share of it serves two sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hospitals import NAMES, Consortium, plan

from primia.privacy import DistributedDpSgd
from primia.protocol.events import Abort, Commit
from primia.protocol.messages import RoundKind

SHARED: dict[str, Any] = {
    "privacy": {"noise_multiplier": 2.0, "delta": 1e-3, "noise": "distributed"},
    "training": {
        "patient_sampling_rate": 0.5, "local_steps": 1, "expected_patients": 5,
        "learning_rate": 1.0,
    },
}  # fmt: skip


@pytest.fixture
def consortium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Consortium:
    made = plan(**SHARED)
    monkeypatch.setattr("hospitals.plan", lambda: made)
    return Consortium(tmp_path)


def hospital(consortium: Consortium, name: str) -> Any:
    return next(h for site, h in consortium.hospitals.items() if site == name)


def test_a_whole_round_holds_the_noise_once_and_every_ledger_its_kind(
    consortium: Consortium,
) -> None:
    done = consortium.run(consortium.round_id())
    assert isinstance(done, Commit)
    terms = hospital(consortium, "east").work.contribution
    update = terms.decode(done.totals[0], contributors=4).mean_update
    # Quorum 3, one may collude: four shares of (2.02)²/2 each, divided by 4 sites of 5 patients.
    # The gradients of at most 10 patients a site, spread over 14,307 weights, add little to it.
    expected = 2.02 * np.sqrt(4 / 2) / (4 * 5)
    assert update.std() == pytest.approx(expected, rel=0.05)
    for each in consortium.hospitals.values():
        assert [row.mechanism for row in each.ledger.rows()] == [DistributedDpSgd(0.5, 2.0, 1)]


def test_an_update_that_was_offered_joins_no_second_attempt(consortium: Consortium) -> None:
    # The coordinator gets a sum, says the attempt failed, and asks for the round again. Were any
    # of the first shares in the second sum, the sums' difference would hold too little noise.
    first = consortium.run(consortium.round_id())
    digests = {
        site: h.work.state.update_for(consortium.round_id()).digest
        for site, h in consortium.hospitals.items()
    }
    second = consortium.run(consortium.round_id(kind=RoundKind.RETRAIN))
    assert isinstance(first, Commit)
    assert isinstance(second, Commit)
    for site, each in consortium.hospitals.items():
        rows = each.ledger.rows()
        assert len(rows) == 2, "both releases are charged"
        assert rows[1].update != digests[site]
    # Two sums with nothing in common: their noises are independent.
    length = hospital(consortium, "east").work.contribution.parameters
    one, two = (np.float64(_signed(c.totals[0][:length])) for c in (first, second))
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.06  # five deviations, and the gradients' own share


def test_an_update_that_was_never_offered_is_kept_for_the_next_attempt(
    consortium: Consortium,
) -> None:
    east = hospital(consortium, "east")
    vector, update = east.work.prepare(
        consortium.round_id(), lambda d: consortium.models[d], lambda *_: None
    )
    again, same = east.work.prepare(
        consortium.round_id(), lambda d: consortium.models[d], lambda *_: None
    )
    assert update == same
    assert np.array_equal(vector, again)
    assert len(east.ledger.rows()) == 1


def test_a_restart_within_the_attempt_offers_the_same_update(consortium: Consortium) -> None:
    east = hospital(consortium, "east")
    round_id = consortium.round_id()
    fetch, on_step = (lambda d: consortium.models[d]), (lambda *_: None)
    _, update = east.work.prepare(round_id, fetch, on_step)
    east.start()
    assert east.work.prepare(round_id, fetch, on_step)[1].digest == update.digest


def test_an_evaluation_needs_no_share(consortium: Consortium) -> None:
    done = consortium.run(
        consortium.round_id(consortium.plan.rounds + 1, RoundKind.EVALUATE), NAMES
    )
    assert not isinstance(done, Abort)
    terms = hospital(consortium, "east").work.contribution
    assert not terms.decode(done.totals[0], contributors=4).mean_update.any()


def _signed(words: np.ndarray) -> np.ndarray:
    return (words << np.uint32(8)).view(np.int32) >> 8
