from dataclasses import replace

import numpy as np
import pytest
import torch
from reference import loop_sum
from seeded_stream import seeded_entropy

from primia.errors import DataError, PeerError
from primia.imaging.dataset import Films
from primia.learning import local
from primia.learning.clipped import PerUnitClipping
from primia.learning.evaluate import evaluate
from primia.learning.local import to_input, train_locally
from primia.learning.metrics import MetricLayout, Metrics
from primia.learning.models import build, build_for, flatten, load_flat
from primia.learning.noise import add_gaussian
from primia.learning.terms import Privacy


def start(terms):
    return flatten(build_for(terms.model, seed=1))


def cross_entropy(outputs, labels):
    return torch.nn.functional.cross_entropy(outputs, labels, reduction="none")


def nobody(terms):
    """Terms under which practically no patient is ever drawn."""
    return replace(terms, sampling_rate=1e-12)


def test_a_round_of_full_batches_is_dp_sgd_with_momentum_written_out(terms, films):
    # The whole cohort in each step and one film a patient, so that only the noise is random.
    one_each = films.select(np.diff(films.patients, prepend=-1) > 0)
    terms = replace(terms, sampling_rate=1.0)
    weights = start(terms)
    found = train_locally(terms, weights, one_each, entropy=seeded_entropy(1)).delta

    entropy = seeded_entropy(1)
    model = build("small-cnn", input_size=28, channels=1, classes=2)
    w, v = torch.from_numpy(weights.copy()), torch.zeros(weights.size)
    x = to_input(torch.from_numpy(one_each.pixels), 1, "cpu")
    for _ in range(terms.local_steps):
        entropy(8 * one_each.patient_count)  # the draw of patients
        entropy(8 * len(one_each))  # the draw of films
        load_flat(model, w.numpy())
        labels, patients = torch.from_numpy(one_each.labels), torch.from_numpy(one_each.patients)
        parts = loop_sum(model, cross_entropy, x, labels, patients, 1.0)
        noisy = [part.float() for part in parts]
        add_gaussian(noisy, 1.0, entropy)
        flat = torch.cat([part.flatten() for part in noisy])
        v = terms.momentum * v + flat / terms.expected_patients
        w = w - terms.learning_rate * v
    expected = w.numpy() - weights
    # Not to the last digit: one rounding more or less moves where a maximum is pooled.
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)


def test_empty_batches_still_add_noise_and_count_as_steps(terms, films):
    steps = []
    update = train_locally(
        nobody(terms), start(terms), films, on_step=lambda done, of: steps.append((done, of))
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert update.steps == 3
    # Three steps with momentum 0.5: noise weights 1 + .5 + .25, 1 + .5, 1 → √(1.75² + 1.5² + 1).
    expected = terms.learning_rate / terms.expected_patients * np.sqrt(1.75**2 + 1.5**2 + 1)
    # 14,307 weights: the sample deviation has relative spread 0.6 %; 5 of them, false alarm 6e-7.
    assert update.delta.std() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("clip_norm", [0.5, 2.0])
@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_noise_is_the_multiplier_times_the_clip_norm_over_the_constant_divisor(
    terms, films, clip_norm, noise
):
    terms = replace(
        nobody(terms),
        local_steps=1,
        learning_rate=1.0,
        privacy=Privacy(clip_norm=clip_norm, noise_multiplier=noise),
    )
    delta = train_locally(terms, start(terms), films).delta
    assert delta.std() == pytest.approx(noise * clip_norm / terms.expected_patients, rel=0.03)
    assert abs(delta.mean()) < 5 * delta.std() / np.sqrt(delta.size)


def test_the_step_is_divided_by_the_constant_and_not_by_who_was_drawn(terms, films):
    # Twice the constant, half the step, though the same patients were drawn.
    terms = replace(terms, sampling_rate=1.0, local_steps=1)
    deltas = [
        train_locally(
            replace(terms, expected_patients=expected),
            start(terms),
            films,
            entropy=seeded_entropy(4),
        ).delta
        for expected in (30.0, 60.0)
    ]
    assert np.allclose(deltas[0], 2 * deltas[1], atol=1e-6)


def test_two_rounds_from_the_same_weights_share_no_noise(terms, films):
    terms = nobody(terms)
    a, b = (train_locally(terms, start(terms), films).delta for _ in range(2))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size)
    assert not (a == b).any()


def test_the_weights_given_are_not_changed(terms, films):
    weights = start(terms)
    before = weights.copy()
    train_locally(terms, weights, films)
    assert np.array_equal(weights, before)


def test_no_more_films_than_the_plan_allows_are_taken_of_a_patient(terms, films, monkeypatch):
    seen = []

    whole = PerUnitClipping.sum

    def spy(self, clipping, loss, inputs, targets, unit):
        seen.append(unit)
        return whole(self, clipping, loss, inputs, targets, unit)

    monkeypatch.setattr(PerUnitClipping, "sum", spy)
    train_locally(replace(terms, max_films_per_patient=1, sampling_rate=1.0), start(terms), films)
    for patients in seen:
        assert torch.equal(patients, torch.arange(60))


def test_without_privacy_nothing_is_clipped_or_noised_and_the_task_is_learned(terms, films):
    terms = replace(terms, privacy=None, local_steps=40, learning_rate=0.1, momentum=0.9)
    weights = start(terms)
    same = [train_locally(terms, weights, films, entropy=seeded_entropy(5)).delta for _ in "ab"]
    assert np.array_equal(*same)
    layout = MetricLayout(2, 128)
    before, after = (
        Metrics.from_counts(layout, evaluate(terms, w, films, layout))
        for w in (weights, weights + same[0])
    )
    assert after.auc > 0.95 > before.auc
    assert after.loss < before.loss


def test_without_privacy_every_patient_is_seen_before_any_a_second_time(terms, films, monkeypatch):
    seen = []
    films_of = local.films_of

    def spy(drawn, *rest):
        seen.append(set(drawn.tolist()))
        return films_of(drawn, *rest)

    monkeypatch.setattr(local, "films_of", spy)
    train_locally(
        replace(terms, privacy=None, expected_patients=20, local_steps=3), start(terms), films
    )
    assert [len(s) for s in seen] == [20, 20, 20]
    assert set.union(*seen) == set(range(60))


def test_with_privacy_the_task_is_learned_too(terms, films):
    terms = replace(
        terms,
        local_steps=30,
        sampling_rate=1.0,
        expected_patients=60,
        learning_rate=0.5,
        momentum=0.9,
        privacy=Privacy(clip_norm=1.0, noise_multiplier=0.5),
    )
    weights = start(terms)
    update = train_locally(terms, weights, films, entropy=seeded_entropy(6))
    layout = MetricLayout(2, 128)
    counts = evaluate(terms, weights + update.delta, films, layout)
    assert Metrics.from_counts(layout, counts).auc > 0.85
    assert update.patients == 60


def test_three_channels_repeat_the_grey_film(films):
    x = to_input(torch.from_numpy(films.pixels[:2]), 3, "cpu")
    assert x.shape == (2, 3, 28, 28)
    assert torch.equal(x[:, 0], x[:, 2])


def test_the_network_sees_the_same_film_whatever_its_exposure():
    film = torch.randint(50, 100, (1, 28, 28), dtype=torch.uint8)
    brighter = (film.float() * 2 + 20).to(torch.uint8)
    assert torch.allclose(to_input(film, 1, "cpu"), to_input(brighter, 1, "cpu"), atol=1e-5)
    blank = torch.full((1, 28, 28), 128, dtype=torch.uint8)
    assert not to_input(blank, 1, "cpu").any()


def test_films_and_weights_that_do_not_fit_the_plan_are_refused(terms, films):
    weights = start(terms)
    with pytest.raises(PeerError, match="weights"):
        train_locally(terms, weights[:-1], films)
    with pytest.raises(DataError, match="28 px, the plan trains on 32 px"):
        train_locally(
            replace(terms, model=terms.model.model_copy(update={"input_size": 32})), weights, films
        )
    with pytest.raises(DataError, match="class 2, the plan has 2"):
        train_locally(terms, weights, Films(films.pixels, films.labels + 1, films.patients))
    with pytest.raises(DataError, match="no training films"):
        train_locally(terms, weights, films.select(films.labels > 5))


@pytest.mark.gpu
def test_a_round_runs_on_a_gpu(terms, films):
    update = train_locally(terms, start(terms), films, device="cuda")
    assert np.isfinite(update.delta).all()


def test_what_the_plan_freezes_is_neither_moved_nor_noised(terms, films):
    terms = replace(terms, model=terms.model.model_copy(update={"trainable": "head"}))
    delta = train_locally(terms, start(terms), films).delta
    model = build_for(terms.model)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    assert {learns for _, learns in sizes} == {True, False}
    for (_, learns), part in zip(
        sizes, np.split(delta, np.cumsum([n for n, _ in sizes])[:-1]), strict=True
    ):
        assert part.all() if learns else not part.any()


def test_views_of_a_film_are_made_on_the_way_and_cost_no_sensitivity(terms, films, monkeypatch):
    seen = []
    whole = PerUnitClipping.sum

    def spy(self, clipping, loss, inputs, targets, unit):
        seen.append((inputs, targets, unit))
        return whole(self, clipping, loss, inputs, targets, unit)

    monkeypatch.setattr(PerUnitClipping, "sum", spy)
    one = films.select(films.patients == 0)
    terms = replace(terms, sampling_rate=1.0, local_steps=1, augmentations=4)
    train_locally(terms, start(terms), one)
    inputs, targets, unit = seen[0]
    assert inputs.shape == (4 * len(one), 28, 28)
    assert inputs.dtype == torch.uint8
    assert torch.equal(inputs[::4].sort(0).values, torch.from_numpy(one.pixels).sort(0).values)
    assert not torch.equal(inputs[0], inputs[1])
    assert (unit == 0).all()
    assert (targets == int(one.labels[0])).all()


@pytest.mark.parametrize("clipping", ["flat", "per-layer", "automatic"])
def test_each_way_of_clipping_bounds_one_patient(terms, films, clipping):
    one = films.select(films.patients == 1)
    quiet = Privacy(clip_norm=0.01, noise_multiplier=1e-9, clipping=clipping)
    terms = replace(
        terms, sampling_rate=1.0, local_steps=1, learning_rate=1.0, expected_patients=1.0,
        privacy=quiet,
    )  # fmt: skip
    delta = train_locally(terms, start(terms), one).delta
    assert 0.001 < np.linalg.norm(delta) <= 0.01


def test_a_network_with_standardised_weights_and_more_norms_learns_through_the_plan(terms, films):
    model = terms.model.model_copy(
        update={"name": "resnet18-gn", "scale_norm": True, "weight_standardisation": True}
    )
    terms = replace(terms, model=model, local_steps=1, sampling_rate=0.1)
    delta = train_locally(terms, start(terms), films).delta
    assert delta.size == flatten(build_for(model)).size
    assert np.isfinite(delta).all()
    assert (delta != 0).mean() > 0.999  # noise everywhere; a few steps vanish in rounding
