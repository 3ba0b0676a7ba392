"""A coordinator that lies about plan, round, kind or model, against real workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from primia.errors import PrimiaError
from primia.federation.optimiser import pack_weights
from primia.learning.terms import study_mechanism
from primia.privacy.accounting import epsilon
from primia.protocol.events import Abort, Commit
from primia.protocol.messages import AdvertiseKeys, Declined, Ready, RoundKind, Train
from primia.types import Digest, SiteId, sha256
from tests.attacks.hospitals import Consortium, plan

THREE = ("east", "north", "south")
EVALUATE = RoundKind.EVALUATE


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    return Consortium(tmp_path)


def ready(answers: list[object]) -> bool:
    return any(isinstance(a, Ready) for a in answers)


def test_the_harness_is_honest_a_true_round_commits(consortium: Consortium) -> None:
    assert isinstance(consortium.run(consortium.round_id(1)), Commit)


# --- plan ---------------------------------------------------------------------------------------


def test_a_round_of_another_plan_than_the_pinned_one_is_not_answered(
    consortium: Consortium,
) -> None:
    other = consortium.round_id(1, plan=Digest("f" * 64))
    assert not ready(consortium.hospitals[SiteId("west")].tell(Train(other)))


def test_sites_that_pinned_different_plans_get_no_sum(tmp_path: Path) -> None:
    # Three sites were handed a plan whose step rounds every update to 0: the "sum" is west alone.
    blunt = plan(aggregation={"encoding_bits": 8, "encoding_range": 1e9})
    consortium = Consortium(tmp_path, dict.fromkeys(THREE, blunt))
    assert isinstance(consortium.run(consortium.round_id(1)), Abort)


# --- evaluation as an oracle --------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 3, 5, 4000])
def test_an_evaluation_is_answered_for_the_closing_round_only(
    consortium: Consortium, number: int
) -> None:
    asked = Train(consortium.round_id(number, EVALUATE))
    assert not ready(consortium.hospitals[SiteId("west")].tell(asked))


def test_chosen_models_are_not_evaluated_without_end(consortium: Consortium) -> None:
    # Exact counts of validation films under chosen weights: each answer is a query on the films.
    # A study has one closing evaluation; every other model is evaluated by a charged round.
    west = consortium.hospitals[SiteId("west")]
    answered = [ready(west.tell(Train(consortium.round_id(4, EVALUATE, m)))) for m in range(4)]
    assert sum(answered) <= 1


def test_the_counts_of_one_model_are_not_summed_over_two_sets_of_sites(
    consortium: Consortium,
) -> None:
    # Round 1 counts model 0 at all four sites, the "closing" evaluation model 0 again at three.
    all_four = consortium.run(consortium.round_id(1))
    without_west = consortium.run(consortium.round_id(4, EVALUATE), THREE)
    assert isinstance(all_four, Commit)
    assert isinstance(without_west, Abort)  # else the difference is west's own counts, exactly


def test_a_signed_evaluation_is_not_freed_by_asking_for_a_sum_it_must_refuse(
    consortium: Consortium,
) -> None:
    assert isinstance(consortium.run(consortium.round_id(4, EVALUATE)), Commit)
    fewer = tuple(SiteId(s) for s in THREE)
    again = consortium.round_id(4, EVALUATE)
    for site in fewer:  # each declines, and retires what it signed
        consortium.hospitals[site].tell(Train(again))
        consortium.hospitals[site].tell(AdvertiseKeys(again, fewer))
    found = consortium.run(consortium.round_id(4, EVALUATE), THREE)
    assert isinstance(found, Abort)


# --- rounds that the plan does not have ---------------------------------------------------------


def test_the_plans_rounds_bound_what_one_study_spends(consortium: Consortium) -> None:
    west = consortium.hospitals[SiteId("west")]
    for number in range(1, 7):  # the plan has 3
        west.tell(Train(consortium.round_id(number)))
    whole = study_mechanism(consortium.plan)
    assert whole is not None
    assert west.ledger.spent(1e-3) <= epsilon([whole], 1e-3) + 1e-9


def test_one_round_number_gives_one_noised_update_whatever_model_is_named(
    consortium: Consortium,
) -> None:
    west = consortium.hospitals[SiteId("west")]
    for model in range(3):
        west.tell(Train(consortium.round_id(1, model=model)))
    assert len({row.update for row in west.ledger.rows()}) == 1


# --- what the coordinator may hear, and what must not end the daemon ----------------------------


def test_a_spent_budget_is_declined_without_its_figures(consortium: Consortium) -> None:
    west = consortium.hospitals[SiteId("west")]
    west.caps = west.caps.model_copy(update={"max_epsilon": 0.0123})
    west.start()
    (answer,) = west.tell(Train(consortium.round_id(1)))
    assert isinstance(answer, Declined)
    assert "0.012" not in answer.reason  # what its patients spent in any study, and its cap


def _damaged(kind: str, parameters: int) -> bytes:
    if kind == "garbage":
        return b"\0" * 64
    weights = np.zeros(parameters + (kind == "long"), np.float32)
    if kind == "not finite":
        weights[0] = np.nan
    return pack_weights(weights)


@pytest.mark.parametrize("kind", ["garbage", "long", "not finite"])
def test_a_model_that_does_not_fit_is_declined_and_the_worker_goes_on(
    consortium: Consortium, kind: str
) -> None:
    west = consortium.hospitals[SiteId("west")]
    data = _damaged(kind, west.work.contribution.parameters)
    west.link.models[sha256(data)] = data
    bad = replace(consortium.round_id(1), model=sha256(data))
    try:
        answers = west.tell(Train(bad))
    except PrimiaError as err:
        pytest.fail(f"the daemon ended: {type(err).__name__}")
    assert any(isinstance(a, Declined) for a in answers)


def test_a_coordinator_restarted_from_an_old_state_does_not_end_the_worker(
    consortium: Consortium,
) -> None:
    # Its database was put back to round 1: round 1 is opened again, on the same model.
    west = consortium.hospitals[SiteId("west")]
    for number in (1, 2, 3):
        west.tell(Train(consortium.round_id(number, model=number - 1)))
    try:
        answers = west.tell(Train(consortium.round_id(1)))
    except PrimiaError as err:
        pytest.fail(f"the daemon ended: {type(err).__name__}")
    assert answers  # Declined, or Ready with an update that is charged


def test_a_made_up_round_number_does_not_destroy_stored_updates(consortium: Consortium) -> None:
    west = consortium.hospitals[SiteId("west")]
    first = consortium.round_id(1)
    west.tell(Train(first))
    west.tell(Train(consortium.round_id(4_000_000_000, EVALUATE)))
    stored = west.state.update_for(first)
    assert stored is not None
    assert stored.digest in west.work.blobs


def test_a_round_that_is_refused_does_not_retire_the_update_of_another_one(
    consortium: Consortium,
) -> None:
    # A retired update is trained and charged anew: a second noised update of round 1.
    west = consortium.hospitals[SiteId("west")]
    first = consortium.round_id(1)
    assert isinstance(consortium.run(first), Commit)  # west has signed
    west.tell(Train(consortium.round_id(1)))  # an honest retry: the same bytes are offered
    west.tell(Train(consortium.round_id(2, plan=Digest("f" * 64))))
    assert west.state.update_for(first) is not None
