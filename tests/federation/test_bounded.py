"""The bounded step: no optimiser, momentum or noise of the plan leads an honest round out of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.config.plan import StudyPlan, load_plan
from primia.federation.bounded import Reach, can_have_become, reach_of_step
from primia.federation.contribution import Contribution
from primia.federation.optimiser import FedAdam, FedAvg, ServerState, step
from primia.federation.robust import combine
from primia.settle import settle
from primia.study import contribution, optimiser, step_bound

EXAMPLE = Path(__file__).parents[2] / "configs" / "study.example.yaml"
rates = st.floats(0, 0.999)
optimisers = st.one_of(
    st.builds(FedAvg, learning_rate=st.floats(0.01, 3), momentum=rates),
    st.builds(
        FedAdam,
        learning_rate=st.floats(0.001, 1),
        beta1=rates,
        beta2=st.one_of(st.just(0.0), rates),
        tau=st.floats(1e-6, 0.1),
    ),
)


def example(**changes: Any) -> StudyPlan:
    data = load_plan(EXAMPLE).model_dump(mode="json")
    return settle(StudyPlan.model_validate_json(json.dumps(data | changes)))


@settings(max_examples=200, deadline=None)
@given(optimisers, st.integers(0, 2**32), st.integers(1, 12), st.floats(0.01, 4))
def test_no_sequence_of_updates_within_the_bound_makes_a_longer_step(
    terms: FedAvg | FedAdam, seed: int, rounds: int, limit: float
) -> None:
    """Updates of any size up to the bound, also all at it, or one large one after none."""
    rng = np.random.default_rng(seed)
    mean = Reach(limit, limit)
    bound = reach_of_step(terms, mean, parameters=5, rounds=rounds)
    states = [ServerState.start(rng.normal(size=5).astype(np.float32), terms)]
    for _ in range(rounds):
        update = rng.choice([-1.0, 0.0, 1e-9, 1.0], 5) if rng.random() < 0.8 else np.eye(5)[0]
        update = update * min(1.0, limit / max(np.linalg.norm(update), 1e-12))
        states.append(step(states[-1], update, terms))
    for earlier, state in enumerate(states):
        for later in range(earlier + 1, len(states)):
            follows, apart = can_have_become(
                states[later].weights, state.weights, bound, steps=later - earlier
            )
            assert follows, (apart, bound)


def test_constant_updates_with_momentum_reach_the_bound() -> None:
    """It is no looser than it has to be: a geometric sum, not one over 1 - momentum in round 1."""
    terms = FedAvg(0.5, 0.9)
    assert reach_of_step(terms, Reach(2, 1), parameters=4, rounds=1) == Reach(1, 0.5)
    state = ServerState.start(np.zeros(1, np.float32), terms)
    for _ in range(7):
        before, state = state, step(state, np.ones(1), terms)
    moved = float(state.weights[0] - before.weights[0])
    bound = reach_of_step(terms, Reach(1, 1), parameters=1, rounds=7)
    assert moved == pytest.approx(bound.norm, rel=1e-6)


def test_adam_bounds_a_step_by_itself_however_long_the_update() -> None:
    terms = FedAdam(0.1, 0.9, 0.99, 1e-3)
    bound = reach_of_step(terms, Reach(1e6, 1e6), parameters=100, rounds=1000)
    assert bound.coordinate == pytest.approx(
        0.1 * 0.1 / math.sqrt(0.01 * (1 - 0.81 / 0.99)), rel=1e-6
    )
    assert bound.norm == pytest.approx(10 * bound.coordinate)


def test_a_longer_way_than_the_steps_allow_is_seen_by_norm_and_by_coordinate() -> None:
    old, bound = np.zeros(100, np.float32), Reach(5.0, 1.0)
    spread, single = np.full(100, 0.6, np.float32), np.zeros(100, np.float32)
    single[3] = 1.1
    assert not can_have_become(spread, old, bound, steps=1)[0]  # norm 6
    assert can_have_become(spread, old, bound, steps=2)[0]
    assert not can_have_become(single, old, bound, steps=1)[0]
    assert can_have_become(single, old, bound, steps=2)[0]
    assert can_have_become(old + 1e-6, old, bound, steps=0)[0]  # another machine's rounding
    assert not can_have_become(old + 1e-3, old, bound, steps=0)[0]
    assert not can_have_become(old + 1e-3, old, bound, steps=-3)[0]


# --- the plan's bound ---------------------------------------------------------------------------

PARAMETERS = 2000


def noise_of_a_site(plan: StudyPlan, parameters: int, rng: np.random.Generator) -> Any:
    """What a site's update holds of noise after the plan's steps with momentum."""
    assert plan.privacy != "none"
    assert plan.privacy.noise_multiplier is not None
    training, velocity, moved = plan.training, 0.0, np.zeros(parameters)
    deviation = plan.privacy.noise_multiplier * plan.privacy.clip_norm / training.expected_patients
    for _ in range(training.local_steps):
        velocity = training.momentum * velocity + rng.normal(0, deviation, parameters)
        moved -= training.learning_rate * velocity
    return moved


def test_ten_thousand_honest_noised_sums_are_within_the_bound_and_no_site_is_scaled_down() -> None:
    """Noise of full size beside a signal of every expected patient's gradient, all one way."""
    plan, rng = example(), np.random.default_rng(7)
    training, parameters = plan.training, 200
    fixed = contribution(plan, parameters)
    bound = step_bound(plan, fixed)
    assert fixed.update_norm is not None
    together = sum(
        (1 - training.momentum**k) / (1 - training.momentum)
        for k in range(1, training.local_steps + 1)
    )
    # Of one site: its deviation over a round, from many draws at once.
    deviation = noise_of_a_site(plan, 200_000, rng).std()
    signal = np.zeros(parameters)
    signal[:4] = training.learning_rate * together / 2  # norm: every patient, one way
    worst = longest = 0.0
    for _ in range(10_000):
        sites = rng.normal(0, deviation, (3, parameters)) + signal
        longest = max(longest, float(np.linalg.norm(sites, axis=1).max()))
        worst = max(worst, float(np.linalg.norm(sites.mean(0))))
    assert longest < fixed.update_norm
    assert worst < bound.norm
    assert fixed.update_norm < 2 * longest  # and it is no bound that anything would pass


def test_the_longest_sum_that_the_coordinator_lets_pass_is_one_that_a_site_takes() -> None:
    for changes in (
        {},
        {"aggregation": {"update_norm": 0.5}},
        {"aggregation": {"weighting": "patients", "max_patients": 50}},
        {"aggregation": {"rounding": "stochastic", "encoding_bits": 12}},
        {"privacy": "none"},
        {"server": {"name": "fedadam", "learning_rate": 0.01}},
        {"server": {"name": "fedavg", "learning_rate": 0.7, "momentum": 0.5}},
    ):
        plan = example(**changes)
        fixed = contribution(plan, 50)
        metrics = np.zeros(fixed.metrics, np.int64)
        # As far as encoding and scaling let a site go, at the smallest weight and at the largest.
        update = np.full(50, 1e6, np.float32)
        for weights in ((1, 1, 1), (fixed.max_weight,) * 3):
            words = [fixed.encode(update, weight=w, metrics=metrics)[0] for w in weights]
            total = np.sum(words, axis=0, dtype=np.uint32)
            mean = combine([fixed.decode(total, contributors=3)]).mean_update
            start = ServerState.start(np.zeros(50, np.float32), optimiser(plan))
            after = step(start, mean, optimiser(plan))
            assert can_have_become(after.weights, start.weights, step_bound(plan, fixed), steps=1)[
                0
            ], changes


def test_with_shared_noise_the_bound_is_that_of_the_coordinators_own_check() -> None:
    shared = load_plan(EXAMPLE.with_name("study.distributed.example.yaml"))
    plan = settle(shared)
    from primia.study import first_weights

    fixed = contribution(plan, first_weights(plan).size)
    bound = step_bound(plan, fixed)
    assert plan.privacy != "none"
    # Two clip norms of every expected patient, times the learning rate, and the noise.
    signal = 2 * plan.training.learning_rate * plan.privacy.clip_norm
    assert signal < bound.norm < math.inf


def test_a_plan_that_names_a_norm_is_held_to_that_and_one_without_privacy_to_its_range() -> None:
    named = example(aggregation={"update_norm": 0.25})
    assert contribution(named, PARAMETERS).update_norm == 0.25
    assert step_bound(named, contribution(named, PARAMETERS)).norm == pytest.approx(0.25, rel=1e-3)
    none = example(privacy="none")
    bound = step_bound(none, contribution(none, PARAMETERS))
    assert bound.coordinate == pytest.approx(4.0, rel=1e-3)
    assert bound.norm == pytest.approx(4.0 * math.sqrt(PARAMETERS), rel=1e-3)


def test_a_trimmed_mean_of_groups_has_the_room_that_trimming_can_make() -> None:
    names = [f"site-{i}" for i in range(9)]
    grouped = example(
        sites=names, schedule={"quorum": 9}, aggregation={"groups": 3, "update_norm": 1.0}
    )
    fixed = contribution(grouped, 3)
    parts = [np.eye(3)[i] for i in range(3)]
    flat = example(sites=names, schedule={"quorum": 9}, aggregation={"update_norm": 1.0})
    more = step_bound(grouped, fixed).norm / step_bound(flat, fixed).norm
    assert more == pytest.approx(math.sqrt(3))
    assert np.linalg.norm(np.sort(np.stack(parts), axis=0)[1:2].mean(0)) <= more


def test_only_weights_that_learn_count_for_the_noise() -> None:
    whole = contribution(example(), 23_000).update_norm
    model = example().model.model_dump(mode="json") | {"trainable": "head"}
    head = contribution(example(model=model), 23_000).update_norm
    assert whole is not None
    assert head is not None
    assert head < whole


def test_a_layout_without_a_norm_is_bounded_by_its_range() -> None:
    plain = Contribution(parameters=4, metrics=2, bits=20, value_range=2.0)
    assert plain.longest_mean(3).norm == pytest.approx(2 * plain.longest_mean(3).coordinate)
