"""One step of DP-SGD on the union of all sites: the parts, and the whole without a network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import loop_sum
from seeded_stream import seeded_entropy

from primia.config.plan import StudyPlan, load_plan
from primia.errors import ConfigError, DataError
from primia.learning.federated import clipped_sum, learning_coordinates
from primia.learning.local import to_input
from primia.learning.models import build_for, flatten, load_flat
from primia.learning.terms import LocalTerms, round_mechanism, share_of_noise, study_mechanism
from primia.privacy import DistributedDpSgd, DpSgd, epsilon
from primia.privacy.discrete_gaussian import discrete_gaussian
from primia.settle import price_plan, settle
from primia.study import contribution

PLAN = {
    "study": "test",
    "model": {"name": "small-cnn", "input_size": 28, "classes": ("normal", "pneumonia")},
    "sites": ("a", "b", "c"),
    "rounds": 40,
    "training": {
        "patient_sampling_rate": 0.5,
        "local_steps": 1,
        "expected_patients": 30.0,
        "learning_rate": 0.5,
    },
    "privacy": {"delta": 1e-4, "noise_multiplier": 2.0, "noise": "distributed"},
}


def plan(**changes):
    return StudyPlan.model_validate(PLAN | changes)


def start(terms):
    return flatten(build_for(terms.model, seed=1))


def test_the_sum_is_that_of_the_drawn_patients_clipped_one_by_one(terms, films):
    one_each = films.select(np.diff(films.patients, prepend=-1) > 0)
    found = clipped_sum(terms, start(terms), one_each, entropy=seeded_entropy(3))
    again = seeded_entropy(3)
    drawn = np.frombuffer(again(8 * one_each.patient_count), "<u8") >> np.uint64(11)
    chosen = drawn < np.uint64(int(terms.sampling_rate * 2**53))
    model = build_for(terms.model)
    load_flat(model, start(terms))
    wanted = loop_sum(
        model,
        lambda out, labels: torch.nn.functional.cross_entropy(out, labels, reduction="none"),
        to_input(torch.from_numpy(one_each.pixels[chosen]), 1, "cpu"),
        torch.from_numpy(one_each.labels[chosen]),
        torch.from_numpy(one_each.patients[chosen]),
        1.0,
    )
    flat = torch.cat([w.flatten() for w in wanted]).numpy()
    assert np.linalg.norm(found - flat) < 1e-4 * np.linalg.norm(flat)


def test_one_patient_more_moves_the_sum_by_no_more_than_the_clip_norm(terms, films):
    terms = replace(terms, sampling_rate=1.0)
    whole = clipped_sum(terms, start(terms), films)
    for left_out in (0, 17, 59):
        without = clipped_sum(terms, start(terms), films.select(films.patients != left_out))
        # At most four films a patient here: nothing about the others is drawn differently.
        assert 0.5 < np.linalg.norm(whole - without) <= 1.0


def test_nobody_drawn_is_a_sum_of_zeros(terms, films):
    assert not clipped_sum(replace(terms, sampling_rate=1e-12), start(terms), films).any()


@pytest.mark.parametrize("trainable", ["all", "head", "bias"])
def test_the_sum_is_zero_exactly_where_nothing_learns(terms, films, trainable):
    terms = replace(terms, model=terms.model.model_copy(update={"trainable": trainable}))
    learns = learning_coordinates(terms.model)
    found = clipped_sum(terms, start(terms), films)
    assert learns.shape == found.shape
    assert learns.all() == (trainable == "all")
    assert not found[~learns].any()
    assert found[learns].any()


def test_films_that_do_not_fit_the_plan_are_refused_as_in_local_training(terms, films):
    other = replace(terms, model=terms.model.model_copy(update={"input_size": 64}))
    with pytest.raises(DataError, match="64 px"):
        clipped_sum(other, start(terms), films)


def test_a_round_over_three_sites_is_one_noisy_step_on_their_union(films):
    settled = settle(plan())
    terms = LocalTerms.of(settled)
    weights = start(terms)
    terms_of_sum = contribution(settled, weights.size)
    total, sums = np.zeros(terms_of_sum.layout.length, np.uint32), np.zeros(weights.size)
    for _ in range(3):
        own = clipped_sum(terms, weights, films)
        words, clipped = terms_of_sum.encode(
            own, weight=1, metrics=np.zeros(terms_of_sum.metrics, np.int64), noise=discrete_gaussian
        )
        assert clipped == 0
        total += words
        sums += own
    found = terms_of_sum.decode(total, contributors=3).mean_update
    noise = found + 0.5 * sums / (30 * 3)
    # Two honest of three hold 2.0 · 1.01; all three √(3/2) of that. 14,307 weights: the sample
    # deviation has relative spread 0.6 %; five of them, false alarm 6e-7.
    expected = 0.5 / (30 * 3) * 2.0 * 1.01 * np.sqrt(3 / 2)
    assert noise.std() == pytest.approx(expected, rel=0.03)
    assert abs(noise.mean()) < 5 * expected / np.sqrt(noise.size)


@pytest.mark.parametrize(
    ("quorum", "colluding", "honest"), [(3, None, 2), (4, 2, 2), (5, None, 4), (5, 3, 2)]
)
def test_the_honest_sites_of_the_smallest_sum_hold_the_plans_noise(quorum, colluding, honest):
    changed = plan(
        sites=tuple("abcdef"),
        schedule={"quorum": quorum},
        privacy=PLAN["privacy"] | {"colluding_sites": colluding},
    )
    share = share_of_noise(changed, 1000)
    assert np.sqrt(honest * share.variance) == pytest.approx(2.0 * share.sensitivity, rel=1e-5)


def test_a_plan_with_shared_noise_is_settled_priced_and_charged_as_such():
    target = plan(privacy={"delta": 1e-4, "target_epsilon": 8.0, "noise": "distributed"})
    settled = settle(target)
    whole, one = study_mechanism(settled), round_mechanism(settled)
    assert isinstance(whole, DistributedDpSgd)
    assert (whole.steps, one) == (40, replace(whole, steps=1))
    assert settled.privacy.colluding_sites == 1  # the default, signed as a number
    price = price_plan(settled)
    assert 7.9 < price.epsilon == epsilon([whole], 1e-4) <= 8.0
    assert price.rows[-1].epsilon == price.rows[-1].epsilon_rdp
    site = settle(plan(privacy={"delta": 1e-4, "target_epsilon": 8.0}))
    assert isinstance(study_mechanism(site), DpSgd)


def test_a_ring_too_small_for_sum_and_noise_names_the_remedy():
    big = plan(model=PLAN["model"] | {"name": "resnet18-gn"})
    with pytest.raises(ConfigError, match="wire_bits: 32"):
        contribution(big, 11_000_000)
    wide = plan(model=PLAN["model"] | {"name": "resnet18-gn"}, aggregation={"wire_bits": 32})
    terms = contribution(wide, 11_000_000)
    assert terms.wire_bits == 32
    assert terms.value_range > 3  # clip norms, in every coordinate of every site
    crowd = plan(
        model=PLAN["model"] | {"name": "resnet18-gn"},
        aggregation={"wire_bits": 32},
        sites=tuple(f"s{i}" for i in range(1000)),
        schedule={"quorum": 900},
        training=PLAN["training"] | {"expected_patients": 300.0},
    )
    with pytest.raises(ConfigError, match="fewer sites"):
        contribution(crowd, 11_000_000)


def test_only_weights_that_learn_are_counted_and_noised():
    head = plan(model=PLAN["model"] | {"trainable": "head"})
    terms = contribution(head, 14_307)
    assert terms.shared is not None
    assert terms.shared.coordinates == learning_coordinates(head.model).sum() < 100
    assert terms.shared.variance < contribution(plan(), 14_307).shared.variance / 100


def test_the_example_plan_is_settled_and_fits_its_ring():
    example = Path(__file__).parents[2] / "configs" / "study.distributed.example.yaml"
    settled = settle(load_plan(example))
    assert price_plan(settled).epsilon <= 8.0
    terms = contribution(settled, 23_000)
    assert terms.wire_bits == 24
    # One coordinate of a site's sum may be as long as 60 of the 150 expected patients make it.
    assert terms.value_range > 60 * settled.privacy.clip_norm
