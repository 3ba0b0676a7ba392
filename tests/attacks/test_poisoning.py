"""Sites that poison within their mask: what the sum shows, what the votes stop, what passes.

The coordinator's own driver, real worker state and votes; training is a step towards a known best
model, and the masks (whose sum is exact) are left out.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import home, record, show, why
from coordinator.export import kept_models
from coordinator.rounds import MOST_DISCARDS, RoundDriver
from coordinator.rows import ModelRow, PinnedStudy
from coordinator.state import CoordinatorState
from coordinator.terms import StudyTerms
from primia import outcome
from primia.config.plan import StudyPlan, canonical_bytes, plan_digest
from primia.contribute import vote_on
from primia.errors import PolicyRefused, RoundFailed
from primia.federation import ballot
from primia.federation.contribution import SharedNoise
from primia.federation.optimiser import (
    FedAvg,
    ServerState,
    pack_state,
    pack_weights,
    unpack_weights,
)
from primia.federation.robust import combine
from primia.identity.certificate import to_pem
from primia.learning.metrics import Counts
from primia.protocol.events import Commit
from primia.protocol.messages import RoundId, RoundKind
from primia.report.terminal import rounds_table
from primia.storage.blobs import Blobs
from primia.study import contribution, metric_layout
from primia.types import Digest, Ring, SiteId, sha256
from tests.attacks.hospitals import NAMES, Consortium
from tests.attacks.hospitals import plan as consortium_plan
from worker.learning import FilmLearning
from worker.state import WorkerState
from worker.work import check_round

FIVE = ("alder", "birch", "cedar", "dogwood", "elm")
BEST = np.full(8, 0.3)
LIAR = SiteId("elm")


def plan(**changes: Any) -> StudyPlan:
    data: dict[str, Any] = {
        "study": "poisoned",
        "model": {"name": "small-cnn", "input_size": 28, "classes": ["no", "yes"]},
        "sites": list(FIVE),
        "rounds": 4,
        "training": {
            "patient_sampling_rate": 0.5, "local_steps": 1, "expected_patients": 5,
            "learning_rate": 0.1,
        },
        "privacy": "none",
        "aggregation": {"update_norm": 1.0},
        "evaluation": {"histogram_bins": 64, "vote_tolerance": 0.1},
    }  # fmt: skip
    return StudyPlan.model_validate_json(json.dumps(data | changes))


def counts_of(plan: StudyPlan, weights: npt.NDArray[np.floating], seed: int) -> Counts:
    """Counts of 60 films that are told apart the better the nearer the weights are to BEST."""
    noise = np.random.default_rng(seed).normal(size=60)
    labels = np.arange(60) % 2
    skill = 2.5 - 4 * float(np.linalg.norm(weights - BEST))
    score = skill * (labels - 0.5) + noise
    return metric_layout(plan).count(np.stack([-score, score], axis=1), labels)


Ballot = Callable[[bool], npt.NDArray[np.int64]]


class Site:
    """A hospital whose training moves half the way towards BEST, or to wherever `aim` says."""

    def __init__(self, name: SiteId, folder: Path, study: StudyPlan, seed: int) -> None:
        self.name, self.folder, self.plan, self.seed = name, folder, study, seed
        folder.mkdir(mode=0o700)
        self.made: dict[tuple[object, ...], Ring] = {}
        self.aim: Callable[[npt.NDArray[np.floating]], npt.NDArray[np.floating]] = lambda weights: (
            (BEST - weights) / 2
        )
        self.ballot: Ballot | None = None
        self.weight = 1
        self.start()

    def start(self) -> None:
        """(Re)start the process on its folder."""
        self.state = WorkerState(self.folder)
        self.learning = FilmLearning(
            plan=self.plan,
            contribution=contribution(self.plan, BEST.size),
            cohort=None,  # type: ignore[arg-type]
            state=self.state,
            devices=("cpu",),
        )

    def vector(self, round_id: RoundId, model: bytes) -> Ring:
        """What this site would mask; the same at every attempt, as a worker's stored update."""
        check_round(round_id, self.plan)
        self.state.check_model(round_id)
        key = (round_id.number, round_id.model, round_id.kind)
        if key not in self.made:
            self.made[key] = self._make(round_id, unpack_weights(model, BEST.size))
            self.state.add_update(round_id, sha256(self.made[key].tobytes()))
        return self.made[key]

    def _make(self, round_id: RoundId, weights: npt.NDArray[np.floating]) -> Ring:
        counts = counts_of(self.plan, weights, self.seed)
        if round_id.kind is RoundKind.RETRAIN:
            counts = np.zeros_like(counts)
        trains = round_id.kind is not RoundKind.EVALUATE
        words, _ = self.learning.contribution.encode(
            self.aim(weights).astype(np.float32) if trains else None,
            weight=1,
            metrics=counts.astype(np.int64),
            vote=vote_on(
                self.plan, round_id.kind, counts, lambda auc: self.learning.accepts(round_id, auc)
            ),
        )
        layout = self.learning.contribution.layout
        words[layout.slice("weight")] = self.weight
        if self.ballot is not None:
            words[layout.slice("vote")] = self.ballot(True).astype(np.uint32)
        return words


class Study:
    """Coordinator and sites of one study; `clock` moves on with every round."""

    def __init__(self, folder: Path, study: StudyPlan | None = None) -> None:
        self.folder, self.plan, self.now = folder, study or plan(), 0.0
        home.initialise(folder / "c", "poisoned")
        self.blobs = Blobs(folder / "c" / "blobs")
        self.state = CoordinatorState(folder / "c")
        start = ServerState.start(np.zeros(BEST.size, np.float32), FedAvg())
        model = ModelRow(
            0, self.blobs.put(pack_weights(start.weights)), self.blobs.put(pack_state(start))
        )
        digest = plan_digest(self.plan)
        self.state.pin_study(PinnedStudy(canonical_bytes(self.plan), b"", digest, 8), model)
        certificate = to_pem(home.coordinator_identity(folder / "c", self.state)[0])  # any will do
        self.sites: dict[SiteId, Site] = {}
        for seed, name in enumerate(self.plan.site_ids):
            self.sites[name] = Site(name, folder / name, self.plan, seed)
            self.state.add_invitation(fingerprint=name, site=name, pem=b"", expires=1e12)
            self.state.redeem(name, "key", lambda site: (certificate, site))
        self.start()

    def start(self) -> None:
        """(Re)start the coordinator on its folder."""
        self.state.close()
        self.state = CoordinatorState(self.folder / "c")
        terms = StudyTerms(
            plan=plan_digest(self.plan),
            roster=self.plan.site_ids,
            rounds=self.plan.rounds,
            quorum=self.plan.schedule.quorum,
            deadline_s=10.0,
            grace_s=1.0,
            stage_timeout_s=1.0,
            contribution=contribution(self.plan, BEST.size),
            cipher=self.plan.aggregation.mask_cipher,
            groups=self.plan.aggregation.groups,
            threads=1,
            score=lambda counts, sites: outcome.scores(self.plan, counts, sites),
            optimiser=FedAvg(),
            voting=self.plan.evaluation.vote_tolerance is not None,
        )
        self.driver = RoundDriver(
            terms, self.state, self.blobs, lambda *_: True, clock=lambda: self.now
        )

    def round(self, sites: tuple[SiteId, ...] = ()) -> RoundId | None:
        """One attempt among all `sites`; None once the study is over."""
        self.now += 100.0
        for site in self.sites:
            self.driver.attend(site, 0, 0.0, lambda: True)
        with self.driver._changed:
            self.driver._open_next()
        if self.driver.over is not None:
            return None
        machine = self.driver._round
        assert machine is not None
        round_id = machine.terms.round
        came = sites or tuple(self.sites)
        groups = tuple(tuple(came[i :: self._groups]) for i in range(self._groups))
        model = self.blobs.get(round_id.model)
        vectors = {s: self.sites[s].vector(round_id, model) for s in came}
        totals = tuple(sum_of([vectors[s] for s in group]) for group in groups)
        self.driver._commit(machine, Commit(totals=totals, groups=groups, contributors=came))
        return round_id

    @property
    def _groups(self) -> int:
        return self.plan.aggregation.groups

    def finish(self) -> None:
        while self.round() is not None:
            pass

    def weights(self, number: int) -> npt.NDArray[np.float32]:
        return unpack_weights(self.blobs.get(self.state.models()[number].digest), BEST.size)

    def outcomes(self) -> list[str]:
        return [a.outcome for a in self.state.attempts()]


def sum_of(vectors: list[Ring]) -> Ring:
    total = np.zeros_like(vectors[0])
    for vector in vectors:
        total += vector
    return total


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def away_from_best(strength: float) -> Callable[[npt.NDArray[np.floating]], Any]:
    """An update that drags the mean of five below what the other four can undo."""
    return lambda weights: np.full(BEST.size, -strength)


def test_the_harness_is_honest_all_rounds_commit_and_the_model_learns(study: Study) -> None:
    study.finish()
    assert study.outcomes() == ["committed"] * 5
    assert [m.accepted for m in study.state.models()] == [True] * 5
    assert np.linalg.norm(study.weights(4) - BEST) < 0.1


# --- what the sum shows -------------------------------------------------------------------------


def test_a_boosted_update_is_discarded_by_the_norm_of_the_sum(study: Study) -> None:
    honest = study.sites[LIAR].aim
    study.sites[LIAR].learning = boosted(study.sites[LIAR].learning)
    study.sites[LIAR].aim = lambda weights: 50 * honest(weights)
    study.round()
    (attempt,) = study.state.attempts()
    assert attempt.outcome == "aborted"
    assert attempt.reason.startswith("the sum was discarded")
    assert len(study.state.models()) == 1


def boosted(work: FilmLearning) -> FilmLearning:
    """The worker without its own scaling down to the plan's norm; the liar has rewritten it."""
    return replace(work, contribution=replace(work.contribution, update_norm=None))


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_vector_at_the_bound_in_every_coordinate_is_discarded(study: Study, sign: int) -> None:
    liar = study.sites[LIAR]
    liar.learning = boosted(liar.learning)
    liar.aim = lambda weights: np.full(BEST.size, sign * study.plan.aggregation.encoding_range)
    study.round()
    assert study.outcomes() == ["aborted"]


@pytest.mark.parametrize("weight", [0, 2, 50, 2**32 - 1])
def test_a_site_cannot_claim_another_weight_than_one(study: Study, weight: int) -> None:
    study.sites[LIAR].weight = weight
    study.round()
    assert study.outcomes() == ["aborted"]
    assert "weight" in study.state.attempts()[0].reason


def test_a_round_whose_sums_are_discarded_again_and_again_waits_for_a_person(study: Study) -> None:
    study.sites[LIAR].weight = 50
    for _ in range(MOST_DISCARDS):
        study.round()
    with pytest.raises(RoundFailed, match="--strike SITE"):
        study.driver.run(threading.Event())
    kept = record.study_record(study.state)
    assert [a.outcome for a in kept.attempts] == ["aborted"] * MOST_DISCARDS
    assert "nothing was applied" in why.troubles(kept)[0]["next"]
    study.sites[LIAR].weight = 1  # its operator has mended it
    study.sites[LIAR].made.clear()
    study.start()
    study.finish()
    assert study.outcomes()[MOST_DISCARDS:] == ["committed"] * 5


# --- what the votes stop ------------------------------------------------------------------------


def poison_round(study: Study, number: int, sites: tuple[SiteId, ...] = ()) -> None:
    """Run rounds until `number` has made a poisoned model whose sum shows nothing."""
    while len(study.state.models()) < number:
        study.round(sites)
    liar = study.sites[LIAR]
    honest, work = liar.aim, liar.learning
    liar.aim, liar.learning = away_from_best(1.8), boosted(work)
    study.round(sites)
    liar.aim, liar.learning = honest, work
    assert study.outcomes()[-1] == "committed", "the norm check must not be what stops it"


def test_a_poisoned_model_is_voted_down_and_the_study_returns_to_the_accepted_one(
    study: Study,
) -> None:
    poison_round(study, 2)
    rejected = study.weights(2)
    study.round()
    models = study.state.models()
    assert [m.accepted for m in models] == [True, True, False, True]
    assert (models[3].digest, models[3].state) == (models[1].digest, models[1].state)
    attempt = study.state.attempts()[-1]
    assert (attempt.votes, attempt.returned_to, attempt.update_norm) == (0, 1, None)
    study.finish()
    assert [a.round.number for a in study.state.attempts()] == [1, 2, 3, 4, 5]
    assert study.outcomes() == ["committed"] * 5
    assert np.linalg.norm(study.weights(4) - BEST) < np.linalg.norm(rejected - BEST) / 2


def test_the_model_returned_to_is_counted_in_no_second_sum(study: Study) -> None:
    # The counts of one model over two sets of sites would differ by one site's counts, exactly.
    poison_round(study, 2)
    rounds = [study.round(), study.round()]
    assert [r and r.kind for r in rounds] == [RoundKind.TRAIN, RoundKind.RETRAIN]
    layout = study.sites[LIAR].learning.contribution.layout
    for site in study.sites.values():
        again = site.made[4, study.state.models()[3].digest, RoundKind.RETRAIN]
        assert not again[layout.slice("metrics")].any()
    assert study.state.models()[3].scores == study.state.models()[1].scores


def test_a_return_is_shown_in_rounds_status_report_and_why(study: Study) -> None:
    poison_round(study, 2)
    study.round()
    kept = record.study_record(study.state)
    words = "returned to the model of round 1: 0 of 5 sites accepted"
    assert words in "".join(rounds_table(kept).columns[-1]._cells[-1].plain)  # type: ignore[union-attr]
    assert show.status_json(study.state)["returns"] == [
        {"round": 3, "votes": 0, "sites": 5, "returned_to": 1}
    ]
    assert words in [t["reason"] for t in why.troubles(kept)]
    outcome.write_report(kept, study.plan, study.folder)
    assert words in (study.folder / "report.html").read_text()


def test_a_poisoned_last_model_is_not_the_result(study: Study) -> None:
    poison_round(study, 4)
    study.finish()
    assert [m.accepted for m in study.state.models()] == [True, True, True, True, False]
    assert study.state.attempts()[-1].returned_to == 3
    assert kept_models(study.state)["model-last.safetensors"].number == 3
    assert record.study_record(study.state).best != 4


def test_no_model_is_evaluated_at_the_end_if_the_last_round_returned(study: Study) -> None:
    poison_round(study, 3)
    study.finish()
    assert study.driver.over is not None
    kinds = [a.round.kind for a in study.state.attempts()]
    assert kinds == [RoundKind.TRAIN] * 4, "round 4 returned to model 2, which was counted"
    assert study.state.accepted_model().number == 2


def test_a_return_survives_a_restart_of_everybody_at_any_moment(study: Study) -> None:
    def restart() -> None:
        study.start()
        for site in study.sites.values():
            site.state.close()
            site.start()

    study.round()
    restart()
    poison_round(study, 2)
    restart()
    study.round()
    restart()
    assert study.state.accepted_model().number == 1
    study.finish()
    assert [m.accepted for m in study.state.models()] == [True, True, False, True, True]


def test_without_votes_in_the_plan_nothing_returns(tmp_path: Path) -> None:
    study = Study(tmp_path, plan(evaluation={"histogram_bins": 64}))
    poison_round(study, 2)
    study.finish()
    assert [m.accepted for m in study.state.models()] == [True] * 5
    assert not record.study_record(study.state).returns


def reject(study: Study) -> None:
    """A majority votes no from now on, whatever it sees."""
    for name in FIVE[:3]:
        study.sites[SiteId(name)].ballot = lambda _: ballot.cast(False, os.urandom)


def test_in_a_plan_without_votes_ballots_count_for_nothing(tmp_path: Path) -> None:
    study = Study(tmp_path, plan(evaluation={"histogram_bins": 64}))
    reject(study)
    study.finish()
    assert study.outcomes() == ["committed"] * 5
    assert [a.returned_to for a in study.state.attempts()] == [None] * 5


def test_the_start_model_cannot_be_rejected_and_a_rejected_one_is_not_the_best(
    study: Study,
) -> None:
    reject(study)
    study.round()
    assert study.state.models()[0].accepted
    study.finish()
    # The same sites make the same update from it: the rejected model is not asked about again.
    assert [m.accepted for m in study.state.models()] == [True, False, True, True, True]
    assert len(study.state.attempts()) == 4
    assert study.state.accepted_model().number == 0
    assert record.study_record(study.state).best is None, "only the start model is left"


def test_updates_of_zero_do_not_make_the_study_ask_for_a_model_twice(study: Study) -> None:
    for site in study.sites.values():
        site.aim = np.zeros_like
    study.finish()
    kinds = [a.round.kind for a in study.state.attempts()]
    assert kinds == [RoundKind.TRAIN, *[RoundKind.RETRAIN] * 3]
    assert study.outcomes() == ["committed"] * 4


# --- voters that lie ----------------------------------------------------------------------------


def test_one_lying_voter_of_five_cannot_force_a_return(study: Study) -> None:
    study.sites[LIAR].ballot = lambda _: ballot.cast(False, os.urandom)
    study.finish()
    assert [a.votes for a in study.state.attempts()] == [4] * 5
    assert all(m.accepted for m in study.state.models())


def test_one_lying_voter_of_five_cannot_block_a_return(study: Study) -> None:
    study.sites[LIAR].ballot = lambda _: ballot.cast(True, os.urandom)
    poison_round(study, 2)
    study.round()
    attempt = study.state.attempts()[-1]
    assert (attempt.votes, attempt.returned_to) == (1, 1)


@pytest.mark.parametrize("yes", [-4, 5])
def test_a_voter_that_votes_for_others_is_found_in_the_sum(study: Study, yes: int) -> None:
    forged = np.zeros(ballot.LENGTH, np.int64)
    forged[0] = yes
    study.sites[LIAR].ballot = lambda _: forged
    study.round()
    assert study.outcomes() == ["aborted"]
    assert "ballots" in study.state.attempts()[0].reason


@given(scores=st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_a_vote_follows_the_best_of_earlier_models_and_a_repeat_votes_the_same(
    scores: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = WorkerState(tmp_path_factory.mktemp("worker"))
    for number, score in enumerate(scores, start=1):
        round_id = RoundId(
            Digest("a" * 64), number, number, RoundKind.TRAIN, sha256(b"%d" % number)
        )
        best = max(scores[: number - 1], default=None)
        assert state.add_score(round_id, score) == (score, best)
        assert state.add_score(round_id, 0.123) == (score, best), "the first score stands"
    state.close()


def test_a_site_with_films_of_one_class_has_no_opinion(study: Study) -> None:
    layout = metric_layout(study.plan)
    rng = np.random.default_rng(1)
    for _ in range(3):
        counts = layout.count(rng.normal(size=(9, 2)), np.zeros(9, np.int64))
        assert vote_on(study.plan, RoundKind.TRAIN, counts, lambda _auc: False)
    empty = np.zeros(layout.length, np.uint32)
    assert vote_on(study.plan, RoundKind.TRAIN, empty, lambda _auc: False)


def test_a_site_does_not_measure_models_by_one_that_the_study_took_back(study: Study) -> None:
    poison_round(study, 2)
    study.finish()
    assert [m.accepted for m in study.state.models()] == [True, True, False, True, True]
    state = study.sites[LIAR].state

    def best(number: int) -> float | None:
        return state.add_score(again(study, number, 4), 0.9)[1]

    with sqlite3.connect(study.sites[LIAR].folder / "worker.db") as db:
        db.execute("UPDATE scores SET score = number / 10.0")  # the rejected one was 3rd, 0.3
    assert best(3) == 0.2
    assert best(4) == 0.2
    with sqlite3.connect(study.sites[LIAR].folder / "worker.db") as db:
        db.execute("DELETE FROM updates WHERE kind = 'retrain'")  # as if it had gone on from it
    assert best(4) == 0.3


# --- models that nobody counted -----------------------------------------------------------------


def signed_in_vain(study: Study, signers: tuple[str, ...] = FIVE) -> RoundId:
    """An attempt that aborts after its sites were asked to sign."""
    study.now += 100.0
    attend(study, FIVE)
    with study.driver._changed:
        study.driver._open_next()
        machine = study.driver._round
        assert machine is not None
        round_id = machine.terms.round
        for site in signers:
            study.sites[SiteId(site)].vector(round_id, study.blobs.get(round_id.model))
        study.state.set_phase(
            round_id.attempt, "survivors", signers, ready=signers, survivors=signers
        )
        study.driver._abort(machine, "too few signed")
        study.driver._round = None
    return round_id


def attend(study: Study, sites: tuple[str, ...]) -> None:
    for site in sites:
        study.driver.attend(SiteId(site), 0, 0.0, lambda: True)


def opened(study: Study, sites: tuple[str, ...]) -> tuple[RoundKind, tuple[str, ...]] | None:
    """What the coordinator opens while `sites` are there, and for whom."""
    attend(study, sites)
    study.driver._round = None
    with study.driver._changed:
        study.driver._open_next()
    machine = study.driver._round
    return None if machine is None else (machine.terms.round.kind, machine.terms.invited)


def test_signers_that_are_all_there_are_brought_together_again(study: Study) -> None:
    signed_in_vain(study, FIVE[:4])
    study.now += 100.0
    assert opened(study, FIVE) == (RoundKind.TRAIN, FIVE[:4])


def test_without_one_of_the_signers_the_round_trains_again_for_all(study: Study) -> None:
    signed_in_vain(study)
    study.now += 100.0
    assert opened(study, FIVE[:4]) == (RoundKind.RETRAIN, FIVE)
    study.driver._abort(study.driver._round, "an honest mishap")  # type: ignore[arg-type]
    study.now += 100.0
    assert opened(study, FIVE) == (RoundKind.RETRAIN, FIVE), "and does not go back"
    study.start()
    assert opened(study, FIVE) == (RoundKind.RETRAIN, FIVE), "after a restart neither"


def test_signers_that_could_not_be_brought_together_train_again(study: Study) -> None:
    signed_in_vain(study)
    study.now += 100.0
    assert opened(study, FIVE) == (RoundKind.TRAIN, FIVE)
    study.driver._abort(study.driver._round, "elm declined")  # type: ignore[arg-type]
    study.now += 100.0
    assert opened(study, FIVE) == (RoundKind.RETRAIN, FIVE)


def test_a_restarted_coordinator_waits_for_signers_on_their_way_back(study: Study) -> None:
    """An honest restart costs no second update."""
    signed_in_vain(study)
    study.start()
    assert opened(study, FIVE[:4]) is None
    assert opened(study, FIVE) == (RoundKind.TRAIN, FIVE)
    study.start()  # in the middle of that
    assert opened(study, FIVE[:4]) is None
    assert opened(study, FIVE) == (RoundKind.TRAIN, FIVE)
    study.start()
    study.now += 100.0
    assert opened(study, FIVE[:4]) == (RoundKind.RETRAIN, FIVE), "but not for ever"


def test_with_shared_noise_signers_always_train_again(study: Study) -> None:
    shared = SharedNoise(1, -1.0, np.ones(BEST.size, bool))
    study.driver.terms = replace(
        study.driver.terms, contribution=replace(study.driver.terms.contribution, shared=shared)
    )
    signed_in_vain(study, FIVE[:4])
    study.now += 100.0
    assert opened(study, FIVE) == (RoundKind.RETRAIN, FIVE)


def lose_count(study: Study) -> RoundId:
    """A round whose model no sum counts: birch is away after all have signed."""
    signed_in_vain(study)
    study.now += 100.0
    rest = tuple(s for s in FIVE if s != "birch")
    assert opened(study, rest) == (RoundKind.RETRAIN, FIVE)
    machine = study.driver._round
    assert machine is not None
    made = machine.terms.round
    vectors = [study.sites[SiteId(s)].vector(made, study.blobs.get(made.model)) for s in rest]
    came = tuple(SiteId(s) for s in rest)
    study.driver._commit(
        machine, Commit(totals=(sum_of(vectors),), groups=(came,), contributors=came)
    )
    return made


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_model_that_nobody_counted_is_passed_over_by_status_and_report(
    study: Study, number: int
) -> None:
    while len(study.state.models()) < number:
        study.round()
    lose_count(study)
    models = study.state.models()
    assert (models[number - 1].scores, models[number - 1].accepted) == (None, number == 1 or None)
    kept = record.study_record(study.state)
    rounds_table(kept)
    show.status_json(study.state)
    outcome.write_report(kept, study.plan, study.folder)
    study.finish()
    models = study.state.models()
    assert [m.number for m in models if m.scores is None] == [number - 1]
    assert study.state.attempts()[-1].round.kind is RoundKind.EVALUATE
    assert models[4].accepted
    outcome.write_report(record.study_record(study.state), study.plan, study.folder)
    assert np.linalg.norm(study.weights(4) - BEST) < 0.1


def test_the_next_model_that_is_counted_decides(study: Study) -> None:
    poison_round(study, 2)
    lose_count(study)  # of the poisoned model, in round 3
    study.round()
    assert [m.accepted for m in study.state.models()] == [True, True, None, False, True]
    assert study.state.attempts()[-1].returned_to == 1
    study.finish()
    assert study.state.accepted_model().number == 1


def test_a_rejected_last_model_is_not_replaced_by_one_that_nobody_counted(study: Study) -> None:
    poison_round(study, 3)
    lose_count(study)
    reject(study)
    study.finish()
    assert [m.accepted for m in study.state.models()] == [True, True, True, None, False]
    assert kept_models(study.state)["model-last.safetensors"].number == 2


def test_a_study_that_returns_to_a_start_model_nobody_counted_goes_on(study: Study) -> None:
    lose_count(study)
    reject(study)
    study.finish()
    assert study.driver.over is not None
    assert study.state.accepted_model().number == 0
    assert record.study_record(study.state).best is None


# --- training again is no way around the site's own rules ---------------------------------------


def again(study: Study, number: int, model: int) -> RoundId:
    digest = study.state.models()[model].digest
    return RoundId(plan_digest(study.plan), number, 99, RoundKind.RETRAIN, digest)


def test_a_site_trains_again_only_ahead_and_once_in_a_round(study: Study) -> None:
    study.round()
    study.round()
    state = study.sites[LIAR].state
    state.check_model(again(study, 3, 0))
    state.check_model(again(study, 2, 1))  # the round it is in, without counts
    for number, model in [(1, 0), (2, 0)]:  # an earlier round; another model than it has answered
        with pytest.raises(PolicyRefused):
            state.check_model(again(study, number, model))
    state.add_update(again(study, 2, 1), sha256(b"trained again"))
    with pytest.raises(PolicyRefused):  # and not back to counting
        state.check_model(replace(again(study, 2, 1), kind=RoundKind.TRAIN))


def test_training_again_is_charged_and_counts_no_film(tmp_path: Path) -> None:
    # Real workers and the whole protocol: round 2 starts from the model of round 1.
    voted = consortium_plan(evaluation={"histogram_bins": 16, "vote_tolerance": 0.1})
    consortium = Consortium(tmp_path, dict.fromkeys(NAMES, voted))
    consortium.follow(voted)
    west = consortium.hospitals[SiteId("west")]
    films = []
    for number, kind in [(1, RoundKind.TRAIN), (2, RoundKind.RETRAIN)]:
        found = consortium.run(consortium.round_id(number, kind))
        assert isinstance(found, Commit)
        (total,) = found.totals
        sums = west.work.contribution.decode(total, contributors=len(NAMES))
        assert sums.mean_update.any()
        films.append(int(sums.metrics[-1]))
    assert films == [5 + 6 + 7 + 8, 0]
    assert [row.round for row in west.ledger.rows()] == [1, 2]


# --- sums of groups -----------------------------------------------------------------------------

NINE = tuple("abcdefghi")


def nine(**changes: Any) -> StudyPlan:
    return plan(
        sites=[f"site-{c}" for c in NINE],
        schedule={"quorum": 9},
        aggregation={"groups": 3, **changes},
    )


def test_one_poisoned_group_of_three_does_not_move_the_trimmed_mean(tmp_path: Path) -> None:
    study = Study(tmp_path, nine())
    liar = study.sites[SiteId("site-a")]
    liar.aim = lambda weights: np.full(BEST.size, -4.0)  # no update_norm in this plan
    study.finish()
    assert study.outcomes() == ["committed"] * 5
    assert np.linalg.norm(study.weights(4) - BEST) < 0.1


@given(poison=st.lists(st.floats(-4, 4), min_size=8, max_size=8))
def test_with_one_poisoned_group_of_three_the_mean_stays_in_the_honest_range(
    poison: list[float],
) -> None:
    terms = contribution(nine(), BEST.size)
    rng = np.random.default_rng(5)
    honest = rng.normal(scale=0.1, size=(9, BEST.size)).astype(np.float32)
    honest[0] = poison
    parts = []
    for group in range(3):
        vectors = [
            terms.encode(u, weight=1, metrics=np.zeros(terms.metrics, np.int64), vote=True)[0]
            for u in honest[group::3]
        ]
        parts.append(terms.decode(sum_of(vectors), contributors=3))
    means = np.stack([honest[group::3].mean(axis=0) for group in (1, 2)])
    found = combine(parts).mean_update
    assert (found >= means.min(axis=0) - 1e-4).all()
    assert (found <= means.max(axis=0) + 1e-4).all()


def test_a_sum_that_fails_its_check_names_the_group(tmp_path: Path) -> None:
    study = Study(tmp_path, nine())
    study.sites[SiteId("site-b")].weight = 9
    study.round()
    reason = study.state.attempts()[0].reason
    assert "sum of site-b, site-e, site-h" in reason
    assert "site-a" not in reason


# --- what is not caught -------------------------------------------------------------------------


def test_not_caught_a_poison_within_the_norm_that_leaves_the_auc_as_it_was(study: Study) -> None:
    # A backdoor is just that: right on the validation films, wrong on the films of its maker.
    liar = study.sites[LIAR]
    honest = liar.aim
    sideways = np.array([1, -1] * 4) * 0.1  # the AUC hardly changes, the model does
    liar.aim = lambda weights: honest(weights) + sideways
    study.finish()
    assert study.outcomes() == ["committed"] * 5
    assert all(m.accepted for m in study.state.models())
    moved = study.weights(4) - BEST
    assert float(moved @ sideways) / float(np.linalg.norm(sideways)) > 0.03


def test_not_caught_a_majority_that_lies(study: Study) -> None:
    for name in FIVE[2:]:
        study.sites[SiteId(name)].ballot = lambda _: ballot.cast(True, os.urandom)
    poison_round(study, 2)
    study.finish()
    assert all(m.accepted for m in study.state.models())


def test_not_caught_an_update_at_the_bound_where_the_plan_sets_no_norm(tmp_path: Path) -> None:
    study = Study(tmp_path, plan(aggregation={}))
    study.sites[LIAR].aim = lambda weights: np.full(BEST.size, -4.0)
    study.round()
    assert study.outcomes() == ["committed"]


# --- older state --------------------------------------------------------------------------------


SCHEMA_2 = Path(__file__).parents[1] / "vectors" / "coordinator-schema-2.sql"


def as_written_in(schema: Path, database: Path) -> None:
    """Put the rows of a database into the tables of an older version, as far as those hold them."""
    newer = database.rename(database.with_suffix(".newer"))
    with closing(sqlite3.connect(database)) as db:
        db.executescript(schema.read_text())
        db.execute("ATTACH ? AS newer", (str(newer),))
        for (table,) in db.execute("SELECT name FROM main.sqlite_master WHERE sql LIKE '%STRICT'"):
            columns = ", ".join(c[1] for c in db.execute(f"PRAGMA main.table_info({table})"))
            db.execute(f"INSERT INTO main.{table} SELECT {columns} FROM newer.{table}")
        db.execute("DELETE FROM meta WHERE key = 'audit_from'")
        db.commit()


def test_a_study_begun_before_there_were_votes_goes_on(tmp_path: Path) -> None:
    study = Study(tmp_path, plan(evaluation={"histogram_bins": 64}))
    study.round()
    study.round()
    study.state.close()
    as_written_in(SCHEMA_2, tmp_path / "c" / "coordinator.db")
    study.start()
    assert [m.accepted for m in study.state.models()] == [True, True, None]
    study.finish()
    assert study.outcomes() == ["committed"] * 5
    assert not math.isnan(record.study_record(study.state).models[4].scores.auc)  # type: ignore[union-attr]
