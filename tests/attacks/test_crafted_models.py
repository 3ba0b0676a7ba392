"""A coordinator that hands out weights made for reading films, against the guards of a real worker.

Fishing (Wen et al., ICML 2022) turns the classifier so that one class, or one film, gives almost
all of a sum's gradient; SEER (Garov et al., ICLR 2024) does it with the whole network; Robbing the
Fed (Fowl et al., ICLR 2022) needs a layer of its own; batch statistics read labels out of a masked
sum (arXiv 2406.15731).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hospitals import NAMES, Consortium, Hospital, plan
from torch import nn

from primia.config import canonical_bytes, plan_from_canonical
from primia.errors import ConfigError
from primia.federation.bounded import Reach
from primia.federation.optimiser import (
    ServerState,
    Vector,
    pack_weights,
    step,
    unpack_weights,
)
from primia.federation.robust import decode_groups
from primia.learning import models
from primia.learning.models import build, build_for, flatten, load_flat
from primia.protocol.events import Commit
from primia.protocol.messages import Declined, Ready, RoundId, RoundKind, Train
from primia.storage.book import NOTES
from primia.storage.database import Database
from primia.storage.disk import DISK
from primia.study import first_weights, optimiser
from primia.types import Digest, SiteId, sha256
from worker import guard, journal, state
from worker.state import WorkerState

TRAIN = RoundKind.TRAIN


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    return Consortium(tmp_path)


@pytest.fixture
def west(consortium: Consortium) -> Hospital:
    return consortium.hospitals[SiteId("west")]


def ask(
    consortium: Consortium, site: Hospital, number: int, weights: Vector, kind: RoundKind = TRAIN
) -> tuple[RoundId, list[Any]]:
    """Hand `site` a round on these weights; the round, and what left the site."""
    data = pack_weights(weights)
    site.link.models[sha256(data)] = data
    asked = consortium.round_id(number, kind, **{"model": 0})
    asked = RoundId(asked.plan, asked.number, asked.attempt, asked.kind, sha256(data))
    return asked, site.tell(Train(asked))


def takes(answers: list[Any]) -> bool:
    return any(isinstance(a, Ready) for a in answers)


def honest(number: int, length: float = 1.0) -> Vector:
    """A model that `number` - 1 rounds can have made, each `length` long."""
    first = first_weights(plan()).astype(np.float64)
    way = np.random.default_rng(3).normal(size=first.size)
    way *= length / np.linalg.norm(way)
    return (first + (number - 1) * way).astype(np.float32)


def fished(weights: Vector, strength: float = 300.0) -> Vector:
    """One class of the classifier so unlikely that its films alone have gradients."""
    network = build_for(plan().model)
    load_flat(network, weights)
    head = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
    head.weight.data *= strength
    head.bias.data[0] -= strength
    return flatten(network)


def other_network(scale: float = 2.0) -> Vector:
    """Every weight made for something else."""
    made = build("small-cnn", input_size=28, channels=1, classes=2, seed=99)
    return (scale * flatten(made)).astype(np.float32)


# --- the first model ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RoundKind.TRAIN, RoundKind.RETRAIN])
@pytest.mark.parametrize("crafted", ["fished", "other network", "one weight"])
def test_a_study_cannot_start_from_crafted_weights(
    consortium: Consortium, west: Hospital, crafted: str, kind: RoundKind
) -> None:
    first = first_weights(plan())
    weights = {
        "fished": lambda: fished(first),
        "other network": other_network,
        "one weight": lambda: first + (np.arange(first.size) == 5).astype(np.float32) * 1e-3,
    }[crafted]()
    _, answers = ask(consortium, west, 1, weights, kind)
    assert not takes(answers)
    assert not west.ledger.rows()
    assert not west.state.models.taken(consortium.round_id(1).plan)


def test_model_0_of_another_machine_is_taken_for_the_same(
    consortium: Consortium, west: Hospital
) -> None:
    """Processors round differently: up to 5.4e-7 in a third of the weights, where it was tried."""
    first = first_weights(plan())
    rounded = first + np.random.default_rng(1).uniform(-6e-7, 6e-7, first.size).astype(np.float32)
    assert takes(ask(consortium, west, 1, rounded.astype(np.float32))[1])


def test_model_0_follows_from_the_plan_and_from_nothing_else() -> None:
    assert np.array_equal(first_weights(plan()), first_weights(plan()))
    other = first_weights(plan(purpose="Another study."))
    assert Reach.between(first_weights(plan()), other).norm > 1


# --- later models -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"server": {"name": "fedavg", "learning_rate": 0.5, "momentum": 0.9}},
        {"server": {"name": "fedadam", "learning_rate": 0.01}},
        {"aggregation": {"update_norm": 0.5}},
        {"privacy": {"noise_multiplier": 2.0, "delta": 1e-3, "noise": "distributed"}},
    ],
    ids=["plain", "momentum", "adam", "shortened", "shared noise"],
)
def test_real_workers_take_the_models_that_their_own_rounds_make(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    made = plan(**changes)
    consortium = Consortium(tmp_path, dict.fromkeys(NAMES, made))
    consortium.follow(made)
    west = consortium.hospitals[SiteId("west")]
    server = ServerState.start(first_weights(made), optimiser(made))
    for number in range(1, made.rounds + 1):
        data = pack_weights(server.weights)
        consortium.models[sha256(data)] = data
        ended = consortium.run(replace(consortium.round_id(number), model=sha256(data)))
        assert isinstance(ended, Commit)
        assert len(ended.contributors) == len(NAMES)
        sums = decode_groups(west.work.contribution, ended.totals, ended.groups)
        server = step(server, sums.mean_update, optimiser(made))


@pytest.mark.parametrize("crafted", ["fished", "other network"])
def test_a_crafted_model_in_mid_study_is_declined_and_the_study_goes_on(
    consortium: Consortium, west: Hospital, crafted: str
) -> None:
    assert takes(ask(consortium, west, 1, honest(1))[1])
    weights = fished(honest(2)) if crafted == "fished" else other_network()
    _, answers = ask(consortium, west, 2, weights)
    (declined,) = answers
    assert isinstance(declined, Declined)
    assert "honest rounds move it by" in declined.reason
    assert "primia-worker plan accept-model" in declined.reason
    left = west.state.audit.last("round_left")
    assert left is not None
    assert left.fields["reason"] == declined.reason
    assert len(west.ledger.rows()) == 1
    assert takes(ask(consortium, west, 2, honest(2))[1]), "it costs the study no round"


def test_a_closing_evaluation_is_no_way_around_the_guard(
    consortium: Consortium, west: Hospital
) -> None:
    for number in (1, 2, 3):
        assert takes(ask(consortium, west, number, honest(number))[1])
    assert not takes(ask(consortium, west, 4, other_network(), RoundKind.EVALUATE)[1])
    assert takes(ask(consortium, west, 4, honest(4), RoundKind.EVALUATE)[1])


def test_a_crafted_model_is_refused_after_a_restart_too(
    consortium: Consortium, west: Hospital
) -> None:
    assert takes(ask(consortium, west, 1, honest(1))[1])
    assert takes(ask(consortium, west, 2, honest(2))[1])
    west.state.close()
    west.start()
    assert not takes(ask(consortium, west, 3, other_network())[1])
    assert takes(ask(consortium, west, 3, honest(3))[1])


def test_a_site_that_was_away_takes_the_steps_it_missed_and_no_more(
    consortium: Consortium, west: Hospital
) -> None:
    far = west.work.guard.step.norm * 0.95
    assert takes(ask(consortium, west, 1, honest(1))[1])
    assert not takes(ask(consortium, west, 2, honest(3, far))[1])  # two steps' way in one
    assert takes(ask(consortium, west, 3, honest(3, far))[1])


def test_a_site_that_joins_late_holds_the_model_against_model_0(
    consortium: Consortium, west: Hospital
) -> None:
    far = west.work.guard.step.norm * 0.95
    assert not takes(ask(consortium, west, 3, honest(4, far))[1])
    assert takes(ask(consortium, west, 3, honest(3, far))[1])


def test_a_model_that_a_vote_returned_to_is_taken_and_later_ones_are_held_against_it(
    consortium: Consortium, west: Hospital
) -> None:
    far = west.work.guard.step.norm * 0.95
    assert takes(ask(consortium, west, 1, honest(1))[1])
    asked, answers = ask(consortium, west, 2, honest(2, far))  # voted down
    assert takes(answers)
    _, answers = ask(consortium, west, 3, honest(1), RoundKind.RETRAIN)
    assert takes(answers)
    assert west.state.models.taken(asked.plan)[0] == (sha256(pack_weights(honest(1))), 3)
    closing = RoundKind.EVALUATE
    assert not takes(ask(consortium, west, 4, fished(honest(1)), closing)[1])
    assert takes(ask(consortium, west, 4, honest(0, far), closing)[1])  # the other way


def test_a_step_from_the_model_returned_to_is_taken_by_a_site_that_missed_the_return(
    consortium: Consortium, west: Hospital
) -> None:
    far = west.work.guard.step.norm * 0.6
    base, away = honest(1), honest(2, far)
    back = (2 * base.astype(np.float64) - away).astype(np.float32)
    assert takes(ask(consortium, west, 1, base)[1])
    assert takes(ask(consortium, west, 2, away)[1])
    assert takes(ask(consortium, west, 3, back)[1])  # 1.2 steps from `away`, 0.6 from `base`


def test_a_person_can_answer_for_one_model_and_for_no_other(
    consortium: Consortium, west: Hospital
) -> None:
    assert takes(ask(consortium, west, 1, honest(1))[1])
    asked, answers = ask(consortium, west, 2, other_network())
    assert not takes(answers)
    west.state.accept_model(asked.model, name="A. Steward", role="steward", account="steward")
    assert not takes(ask(consortium, west, 2, other_network(3.0))[1])
    assert takes(ask(consortium, west, 2, other_network())[1])
    line = west.state.audit.last("model_accepted")
    assert line is not None
    assert line.fields == {"model": asked.model, "name": "A. Steward", "role": "steward"}


def test_weights_that_were_lost_at_the_site_open_no_door(
    consortium: Consortium, west: Hospital
) -> None:
    assert takes(ask(consortium, west, 1, honest(1))[1])
    asked, _ = ask(consortium, west, 2, honest(2))
    for model in west.work.guard.kept(asked.plan):
        west.work.blobs.path(model).write_bytes(b"damaged")
    assert not takes(ask(consortium, west, 3, other_network())[1])
    assert takes(ask(consortium, west, 3, honest(3))[1])  # two steps from model 0


def test_bytes_with_another_digest_than_the_round_names_are_not_trained_on(
    consortium: Consortium, west: Hospital
) -> None:
    named = consortium.digests[0]
    west.link.models = {named: pack_weights(other_network())}
    assert not takes(west.tell(Train(consortium.round_id(1))))


def test_a_folder_from_before_the_guard_knows_the_models_it_has_worked_on(tmp_path: Path) -> None:
    older = [NOTES, *state._MIGRATIONS[: state._MIGRATIONS.index(guard.SCHEMA)]]
    made = Database(tmp_path / "worker.db", older, DISK, journal.TABLES)
    with made.transaction() as db:
        for number, model in ((1, "a" * 64), (2, "b" * 64)):
            db.execute(
                "INSERT INTO updates (plan, number, model, kind, digest, made_at) "
                "VALUES ('p', ?, ?, 'train', ?, 1.0)",
                (number, model, "d" * 64),
            )
    made.close()
    book = WorkerState(tmp_path)
    assert book.models.taken(Digest("p")) == [("b" * 64, 2), ("a" * 64, 1)]
    assert not book.models.refused(Digest("a" * 64))
    book.close()


def test_a_folder_from_before_the_guard_goes_on_from_model_0(
    consortium: Consortium, west: Hospital
) -> None:
    asked, _ = ask(consortium, west, 1, honest(1))
    _, answers = ask(consortium, west, 2, honest(2))
    assert takes(answers)
    for model in west.work.guard.kept(asked.plan):
        west.work.blobs.remove(model)  # rows alone, as the migration makes them
    assert takes(ask(consortium, west, 3, honest(3))[1])


def test_not_caught_a_slow_drift_within_the_bound(consortium: Consortium, west: Hospital) -> None:
    """Who stays within the step of honest rounds leads a model anywhere, a step in each round."""
    way = other_network().astype(np.float64) - honest(1)
    pace = way * (0.9 * west.work.guard.step.norm / np.linalg.norm(way))
    for number in (1, 2, 3):
        drifted = (honest(1) + (number - 1) * pace).astype(np.float32)
        assert takes(ask(consortium, west, number, drifted)[1])


# --- architecture and statistics ----------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        {"name": "torch.nn.Sequential"},
        {"name": "imprint"},
        {"name": "small-cnn", "layers": [{"type": "Linear", "out": 512}]},
        {"name": "small-cnn", "code": "import os"},
        {"name": "small-cnn", "norm": "batch"},
        {"name": "small-cnn", "first_weights": "a" * 64},
    ],
)
def test_a_plan_names_a_network_of_the_zoo_and_cannot_describe_another(
    model: dict[str, Any],
) -> None:
    data = json.loads(canonical_bytes(plan()))
    data["model"] |= model
    signed = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(ConfigError, match="model"):
        plan_from_canonical(signed)


def test_a_round_names_no_network_and_its_weights_are_one_flat_vector(
    consortium: Consortium, west: Hospital
) -> None:
    assert set(RoundId.__dataclass_fields__) == {"plan", "number", "attempt", "kind", "model"}
    (name,) = {type(v).__name__ for v in [unpack_weights(pack_weights(honest(1)), honest(1).size)]}
    assert name == "ndarray"
    longer = np.concatenate([honest(1), np.zeros(512, np.float32)])  # room for an imprint layer
    assert not takes(ask(consortium, west, 1, longer)[1])


@pytest.mark.parametrize("train", [True, False])
def test_no_model_with_batch_statistics_is_built_on_a_workers_way(
    monkeypatch: pytest.MonkeyPatch, *, train: bool
) -> None:
    def with_statistics(size: int, channels: int, classes: int) -> nn.Module:
        norm = nn.BatchNorm2d(4)
        norm.train(train)
        return nn.Sequential(
            nn.Conv2d(channels, 4, 3), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(4, classes),
        )  # fmt: skip

    monkeypatch.setattr(models, "_small_cnn", with_statistics)
    with pytest.raises(ConfigError, match="statistics over a batch"):
        first_weights(plan())  # what a worker does before it takes part
    with pytest.raises(ConfigError, match="statistics over a batch"):
        build_for(plan().model)  # what each round's local work does


# --- one patient who outweighs the others -------------------------------------------------------


def everybody_drawn(folder: Path) -> tuple[Consortium, Hospital]:
    """A site that draws all of its patients in each step; one of them alone has class 0."""
    training = {
        "patient_sampling_rate": 1.0, "local_steps": 1, "expected_patients": 10,
        "learning_rate": 0.1,
    }  # fmt: skip
    made = plan(training=training)
    consortium = Consortium(folder, {"west": made})
    consortium.follow(made)
    west = consortium.hospitals[SiteId("west")]
    train = west.cohort.train
    labels = (np.arange(len(train.labels)) != 4).astype(train.labels.dtype)
    west.cohort = replace(west.cohort, train=replace(train, labels=labels))
    west.start()
    return consortium, west


def test_a_step_of_mostly_one_patient_is_noted_here_and_told_to_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    consortium, west = everybody_drawn(tmp_path)
    first = first_weights(west.plan)
    assert takes(ask(consortium, west, 1, first)[1])
    assert west.state.noted(state.DOMINATED) is None  # nobody outweighs the others in model 0
    honest_answers = [type(a) for a in west.link.answers]

    crafted = first.copy()
    crafted[-1] += 100.0  # class 1 beyond doubt: only the patient of class 0 has a gradient
    asked = sha256(pack_weights(crafted))
    west.state.models.refuse(asked)
    west.state.accept_model(asked, name="A. Steward", role="steward", account="steward")
    lines = len(west.state.audit.path.read_text().splitlines())
    capsys.readouterr()
    assert takes(ask(consortium, west, 2, crafted)[1])
    assert west.state.noted(state.DOMINATED) == "1"

    assert [type(a) for a in west.link.answers] == 2 * honest_answers
    events = [
        json.loads(line)["event"] for line in west.state.audit.path.read_text().splitlines()[lines:]
    ]
    assert events == ["charged"]
    said = capsys.readouterr()
    logged = [line.split("]")[1].split()[0] for line in said.out.splitlines() if "]" in line]
    assert logged == ["working", "model_accepted", "charged"]
    assert "dominat" not in said.out + said.err
