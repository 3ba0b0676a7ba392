import math

import pytest
import torch
from torch import nn

from primia.learning import dpsgd
from primia.learning.dpsgd import CLIP_MARGIN, clip_and_sum, clipped_sum
from primia.learning.models import build


def loop_clipped_sum(model, pixels, labels, patient_index, clip_norm):
    """The plain reference: one patient after the other, by ordinary autograd, in float64."""
    total = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    for patient in patient_index.unique():
        mine = patient_index == patient
        loss = nn.functional.cross_entropy(model(pixels[mine]), labels[mine])  # mean over films
        parts = torch.autograd.grad(loss, list(model.parameters()))
        gradient = torch.cat([p.reshape(-1) for p in parts]).double()
        if not torch.isfinite(gradient).all():
            continue
        total += gradient * min(1.0, clip_norm * (1 - CLIP_MARGIN) / float(gradient.norm()))
    return total


def batch(films_of_each, size=28, channels=1, classes=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    patients = torch.repeat_interleave(
        torch.arange(len(films_of_each)), torch.tensor(films_of_each)
    )
    n = patients.numel()
    pixels = torch.randn(n, channels, size, size, generator=generator)
    labels = torch.randint(0, classes, (n,), generator=generator)
    return pixels, labels, patients


def assert_equal_to_loop(model, films, clip_norm):
    fast, slow = clipped_sum(model, *films, clip_norm), loop_clipped_sum(model, *films, clip_norm)
    error = float((fast.double() - slow).norm() / slow.norm())
    assert error < 1e-5


@pytest.mark.parametrize("clip_norm", [0.05, 1.0, 1e6])
@pytest.mark.parametrize("films_of_each", [[1], [1] * 7, [3, 1, 2, 5, 1], [9, 9]])
def test_the_small_cnn_agrees_with_the_loop(films_of_each, clip_norm):
    model = build("small-cnn", input_size=28, channels=1, classes=2)
    assert_equal_to_loop(model, batch(films_of_each), clip_norm)


@pytest.mark.parametrize("physical", [1, 2, 3, 4, 64])
def test_the_size_of_a_physical_batch_changes_nothing(physical, monkeypatch):
    # 1 and 2 cut patients in two and three; 64 is mostly padding.
    monkeypatch.setattr(dpsgd, "_LARGEST_BATCH", physical)
    model = build("small-cnn", input_size=28, channels=1, classes=2)
    assert_equal_to_loop(model, batch([3, 1, 2, 5, 1, 4]), 0.3)


def test_resnet_with_in_place_relu_agrees_with_the_loop():
    # In float64: at 28 px its last stages are 1 px wide, and a group norm over 16 values loses
    # three digits in float32, in the loop as well.
    model = build("resnet18-gn", input_size=28, channels=3, classes=3).double()
    pixels, labels, patients = batch([1, 2], channels=3, classes=3)
    assert_equal_to_loop(model, (pixels.double(), labels, patients), 1.0)


def test_four_stages_at_48_px_agree_with_the_loop():
    model = build("small-cnn", input_size=48, channels=1, classes=3)
    assert_equal_to_loop(model, batch([2, 1, 1], size=48, classes=3), 0.5)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_adding_one_patient_moves_the_sum_by_at_most_the_clip_norm(scale):
    model = build("small-cnn", input_size=28, channels=1, classes=2)
    pixels, labels, patients = batch([2, 1, 4, 3])
    pixels[patients == 3] *= scale
    rest = patients < 3
    with_patient = clipped_sum(model, pixels, labels, patients, 0.01)
    without = clipped_sum(model, pixels[rest], labels[rest], patients[rest], 0.01)
    moved = float((with_patient - without).norm())
    assert 0.009 < moved <= 0.01


def test_a_patient_with_many_films_weighs_no_more_than_one_with_few():
    model = build("small-cnn", input_size=28, channels=1, classes=2)
    pixels, labels, _ = batch([1])
    one = clipped_sum(model, pixels, labels, torch.zeros(1, dtype=torch.int64), 1e6)
    many = clipped_sum(
        model, pixels.repeat(6, 1, 1, 1), labels.repeat(6), torch.zeros(6, dtype=torch.int64), 1e6
    )
    assert torch.allclose(one, many, atol=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("physical", [2, 64])
def test_a_film_that_is_not_finite_takes_only_its_patient_out(value, physical, monkeypatch):
    monkeypatch.setattr(dpsgd, "_LARGEST_BATCH", physical)
    model = build("small-cnn", input_size=28, channels=1, classes=2)
    pixels, labels, patients = batch([2, 3, 1])
    pixels[3, 0, 5, 5] = value  # a film of patient 1
    others = patients != 1
    expected = clipped_sum(model, pixels[others], labels[others], patients[others], 1.0)
    found = clipped_sum(model, pixels, labels, patients, 1.0)
    assert torch.isfinite(found).all()
    if math.isfinite(value):  # float32 may survive it; then the bound holds, which is what counts
        assert float((found - expected).norm()) <= 1.0
    else:
        assert torch.allclose(found, expected, atol=1e-6)


def test_an_empty_batch_is_a_sum_of_zero():
    model = build("small-cnn", input_size=28, channels=1, classes=2)
    pixels, labels, patients = batch([1])
    total = clipped_sum(model, pixels[:0], labels[:0], patients[:0], 1.0)
    assert total.shape == (sum(p.numel() for p in model.parameters()),)
    assert not total.any()


def test_gradients_do_not_pile_up_from_call_to_call():
    model = build("small-cnn", input_size=28, channels=1, classes=2)
    films = batch([2, 1])
    first = clipped_sum(model, *films, 1.0)
    assert torch.equal(first, clipped_sum(model, *films, 1.0))
    assert all(p.grad is None for p in model.parameters())


def test_small_gradients_are_not_blown_up_to_the_clip_norm():
    rows = torch.tensor([[0.3, 0.4], [0.0, 0.0], [30.0, 40.0]])
    expected = torch.tensor([0.3, 0.4]) + (1 - CLIP_MARGIN) * torch.tensor([0.6, 0.8])
    assert torch.allclose(clip_and_sum(rows, 1.0), expected)


def test_clipping_bounds_every_row_even_when_its_norm_overflows():
    rows = torch.tensor([[3e38, 3e38], [math.nan, 0.0], [math.inf, 1.0], [1e19, 1e19]])
    for row in rows:
        assert float(clip_and_sum(row[None], 1.0).norm()) <= 1.0


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_loop():
    model = build("small-cnn", input_size=28, channels=1, classes=2)
    films = batch([3, 1, 2])
    slow = loop_clipped_sum(model, *films, 1.0)
    on_gpu = [t.cuda() for t in films]
    fast = clipped_sum(model.cuda(), *on_gpu, 1.0).cpu()
    assert float((fast.double() - slow).norm() / slow.norm()) < 1e-4
