"""A study in one process: it sums what it says it sums, whoever drops out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from primia.cli.main import app
from primia.config.plan import StudyPlan
from primia.config.strict import validate
from primia.errors import ConfigError, PolicyRefused, RoundFailed
from primia.learning.insecure import SIMULATION_VARIABLE
from primia.protocol.messages import RoundKind
from primia.report.quality import SiteQuality
from primia.report.record import Attempt, from_json, to_json
from primia.settle import settle
from primia.simulate.crew import Crew, Done, Task, Weights, _Desk
from primia.simulate.run import Request, _model, _plan_and_films, run
from primia.simulate.study import Simulation, Wishes
from primia.study import contribution
from primia.types import SiteId

PARAMETERS = 12


def plan(sites: int = 5, rounds: int = 3, quorum: int = 3) -> StudyPlan:
    return validate(
        StudyPlan,
        {
            "study": "small",
            "model": {"name": "small-cnn", "input_size": 28, "classes": ["a", "b"]},
            "sites": [f"site-{i}" for i in range(sites)],
            "rounds": rounds,
            "schedule": {"quorum": quorum},
            "training": {
                "patient_sampling_rate": 0.5,
                "local_steps": 1,
                "expected_patients": 10,
                "learning_rate": 0.1,
            },
            "privacy": "none",
            "evaluation": {"histogram_bins": 16},
        },
        where="test",
    )


class Known:
    """Sites whose update depends on their name and the model alone."""

    def __init__(self, study: StudyPlan) -> None:
        self.fixed = contribution(study, PARAMETERS)

    @staticmethod
    def update(site: str, weights: Weights) -> Weights:
        return (0.25 * (1 + int(site[-1])) - 0.5 * weights).astype(np.float32)

    def work(self, tasks: Sequence[Task], weights: Weights) -> dict[SiteId, Done]:
        made = {}
        for task in tasks:
            update = None
            if task.kind is not RoundKind.EVALUATE:
                update = self.update(task.site, weights)
            counts = np.zeros(self.fixed.metrics, np.int64)
            made[task.site] = Done(self.fixed.encode(update, weight=1, metrics=counts)[0], None)
        return made

    def close(self) -> None:
        pass


def simulation(study: StudyPlan, wishes: Wishes, crew: Crew | None = None) -> Simulation:
    crew = crew or Known(study)
    start = np.zeros(PARAMETERS, np.float32)
    return Simulation(study, contribution(study, PARAMETERS), start, crew, wishes)


@settings(max_examples=15, deadline=None)
@given(drop=st.sampled_from([0.0, 0.1, 0.25]), seed=st.integers(0, 10_000))
def test_each_model_is_the_mean_of_exactly_the_sites_that_its_round_names(
    drop: float, seed: int
) -> None:
    study = plan()
    runner = simulation(study, Wishes(drop=drop, seed=seed))
    record = runner.run()
    weights = np.zeros(PARAMETERS, np.float32)
    assert [a.number for a in record.committed] == [1, 2, 3]
    for attempt in record.committed:
        assert len(attempt.contributors) >= study.schedule.quorum
        updates = [Known.update(s, weights) for s in attempt.contributors]
        weights = weights + np.mean(updates, axis=0, dtype=np.float64).astype(np.float32)
    np.testing.assert_allclose(runner._books.state.weights, weights, atol=1e-5)


def test_every_site_that_a_round_lost_is_named_with_its_phase() -> None:
    record = simulation(plan(rounds=12), Wishes(drop=0.2, seed=4)).run()
    lost = [x for a in record.attempts if a.outcome == "committed" for x in a.absent]
    assert lost
    assert all(x.phase and x.reason for x in lost)
    for attempt in record.committed:
        named = {*attempt.contributors, *(x.site for x in attempt.absent)}
        assert named == set(record.plan["sites"]), "nobody disappears without a word"


def test_the_same_seed_drops_the_same_sites_out() -> None:
    def history(seed: int) -> list[tuple[str, tuple[str, ...]]]:
        record = simulation(plan(rounds=6), Wishes(drop=0.2, seed=seed)).run()
        return [(a.outcome, a.contributors) for a in record.attempts]

    assert history(1) == history(1)
    assert history(1) != history(2)


def test_a_round_that_never_finds_its_quorum_ends_with_a_reason() -> None:
    with pytest.raises(RoundFailed, match=r"round 1 did not commit in 50 attempts.*lower --drop"):
        simulation(plan(sites=3), Wishes(drop=0.9)).run()


def test_the_record_says_that_nobody_took_part_and_survives_its_json() -> None:
    record = simulation(plan(), Wishes()).run()
    assert "no hospital took part" in record.notes[0]
    assert from_json(to_json(record)) == record


def test_seeded_noise_is_called_insecure_and_gets_no_epsilon() -> None:
    study = plan().model_copy(update={"rounds": 1})
    record = simulation(study, Wishes(seed=1, deterministic=True)).run()
    assert any("INSECURE" in note for note in record.notes)
    assert record.planned_epsilon is None
    assert all(s.epsilon is None for s in record.sites)


def test_sites_that_do_nothing_go_through_every_round_with_real_masks() -> None:
    heard: list[Attempt] = []
    request = Request(do_nothing=True, sites=4, rounds=2)
    record, _ = run(request, on_attempt=heard.append)
    assert [(a.kind, a.outcome) for a in heard] == [
        ("train", "committed"),
        ("train", "committed"),
        ("evaluate", "committed"),
    ]
    assert record.parameters == 250_000
    assert all(m.scores is None for m in record.models), "nobody had films"


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request(do_nothing=True, patients=30), "--do-nothing takes no films"),
        (Request(data=Path("x.npz"), patients=30), "not both"),
    ],
)
def test_wishes_that_contradict_each_other_are_refused(request_: Request, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(request_)


def test_a_plan_without_films_is_told_what_to_give(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "configs" / "study.example.yaml"
    done = CliRunner().invoke(app, ["simulate", "--plan", str(example)])
    assert isinstance(done.exception, ConfigError)
    assert "--do-nothing" in str(done.exception)


def test_a_trained_vector_is_repeatable_only_with_a_seed(tmp_path: Path) -> None:
    plan_, films = _plan_and_films(Request(patients=24, sites=3, rounds=1), tmp_path)
    assert films is not None
    study = settle(plan_)
    start, fixed = _model(study, idle=False)
    desk = _Desk(study, fixed, {SiteId("site-01"): films.paths[0]})

    def vector(seed: int | None) -> bytes:
        task = Task(SiteId("site-01"), 1, 1, RoundKind.TRAIN, None, seed)
        return desk.train(task, start).vector.tobytes()

    assert vector(7) == vector(7)
    assert len({vector(7), vector(8), vector(None), vector(None)}) == 4


def test_a_worker_does_not_start_where_seeded_noise_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker import daemon

    monkeypatch.setenv(SIMULATION_VARIABLE, "1")
    with pytest.raises(PolicyRefused, match="belongs to simulations alone"):
        daemon.run(tmp_path, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", ["coordinator.cli", "worker.cli"])
def test_no_daemon_knows_the_deterministic_flag(command: str) -> None:
    from importlib import import_module

    verb = {"coordinator.cli": ["start"], "worker.cli": ["run", "--config", "x"]}[command]
    done = CliRunner().invoke(import_module(command).app, [*verb, "--deterministic"])
    assert done.exit_code == 2


def test_each_site_measures_the_best_model_on_its_own_films() -> None:
    heard: list[SiteQuality] = []
    request = Request(patients=40, sites=3, rounds=1, processes=1)
    record, _ = run(request, on_quality=heard.extend)
    assert [q.site for q in heard] == ["site-01", "site-02", "site-03"]
    best = next(m for m in record.models if m.number == record.best)
    assert {q.model for q in heard} == {best.digest}
    assert best.scores is not None
    assert sum(q.quality.films or 0 for q in heard) == best.scores.films
    table = np.array([q.quality.confusion for q in heard]).sum(0)
    assert np.array_equal(table, best.scores.confusion)
    assert all(len(q.comparisons) == 1 for q in heard)


def test_sites_without_films_measure_nothing() -> None:
    done = CliRunner().invoke(app, ["simulate", "--do-nothing", "--quality"])
    assert isinstance(done.exception, ConfigError)
