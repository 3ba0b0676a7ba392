"""Attacks on the clipping bound that once succeeded: each must stay within it, or be refused."""

import threading

import pytest
import torch
from torch import nn

from primia.errors import ConfigError, StateError
from primia.learning import Flat, private
from primia.learning.clipped import PerUnitClipping


def norm_of_sum(model, x, weights, *, unit=None, clip_norm=1.0, **terms):
    """The clipped sum's norm, for losses that weigh each output; one unit unless `unit` says."""
    clipped = PerUnitClipping(model, **terms)
    unit = torch.zeros(len(x), dtype=torch.int64) if unit is None else unit
    found = clipped.sum(Flat(clip_norm), weighed, x, weights, unit).gradients
    return float(torch.cat([g.double().flatten() for g in found]).norm())


def weighed(outputs, weights):
    return (outputs * weights).flatten(1).sum(1)


class Late(nn.Module):
    """A layer that does not see the films themselves, so that its norms are Gram norms."""

    def __init__(self, layer):
        super().__init__()
        self.shift, self.layer = nn.Linear(1, 1), layer
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.shift.bias)

    def forward(self, x):
        return self.layer(x + self.shift(x.new_zeros(len(x), *[1] * (x.dim() - 1))))


@pytest.mark.parametrize("size", [1e3, 1e6, 1e12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_errors_of_a_gradient_that_cancels_are_clipped_too(size, dtype):
    for seed in range(5):
        torch.manual_seed(seed)
        h, b = torch.randn(1, 8, 64), torch.randn(1, 8, 64)
        x = torch.cat([h, h], 1).to(dtype)
        back = torch.cat([b, -b], 1).to(dtype) * size  # sums to zero over equal positions
        assert norm_of_sum(Late(nn.Linear(64, 64, bias=False)).to(dtype), x, back) <= 1.0


@pytest.mark.parametrize("size", [1e6, 1e10])
def test_a_circular_convolution_of_a_periodic_film_keeps_the_bound(size):
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 256, 3, padding=1, padding_mode="circular", bias=False)
    h, b = torch.randn(1, 1, 4, 2), torch.randn(1, 256, 4, 2)
    x, back = torch.cat([h, h], 3), torch.cat([b, -b], 3) * size
    assert norm_of_sum(Late(layer), x, back) <= 1.0


@pytest.mark.parametrize("size", [1e4, 1e8])
def test_rows_of_one_patient_that_cancel_keep_the_bound(size):
    torch.manual_seed(0)
    h = torch.randn(3, 512) * size
    signs = torch.tensor([1.0, 1, 1, -1, -1, -1])[:, None].expand(6, 2)
    assert norm_of_sum(Late(nn.Linear(512, 2, bias=False)), torch.cat([h, h]), signs) <= 1.0


@pytest.mark.parametrize("clip_norm", [0.1, 0.01])
def test_squares_that_underflow_do_not_hide_a_gradient(clip_norm):
    x, back = torch.full((1, 1), 1.8e19), torch.full((1, 10**5), 2.6e-23)
    model = Late(nn.Linear(1, 10**5, bias=False))
    assert norm_of_sum(model, x, back, clip_norm=clip_norm) <= clip_norm


def test_a_gradient_changed_in_place_after_its_norm_was_taken_is_refused():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.branch = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            h = self.first(x)
            skip = torch.tanh(h)
            out = skip + self.branch(h)  # both get the same gradient tensor
            skip.register_hook(lambda g: g.mul_(1e6))
            return out

    with pytest.raises(StateError, match="in place"):
        norm_of_sum(Branches(), torch.randn(1, 8), torch.ones(1, 8))


class Sequence(nn.Module):
    """Rows second, as recurrent networks like them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x):
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


class MeanOverTheBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x):
        return self.layer(x - x.mean(0))


class Sorted(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x):
        order = x.flatten(1)[:, 0].argsort()
        return self.layer(x[order])[order.argsort()]


class Positions(nn.Module):
    """A table of as many positions as a batch may have rows."""

    def __init__(self, positions):
        super().__init__()
        self.table, self.layer = nn.Embedding(positions, 16), nn.Linear(16, 16)

    def forward(self, x):
        return self.layer(x + self.table(torch.arange(self.table.num_embeddings)))


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("model", [Sequence, MeanOverTheBatch, Sorted, Positions])
def test_rows_that_are_mixed_or_not_first_are_refused_whatever_their_number(model, rows):
    mixing = model(rows) if model is Positions else model()
    with pytest.raises(ConfigError, match=r"depends on other rows|where the batch has"):
        norm_of_sum(mixing, torch.randn(rows, rows, 16), torch.ones(rows, rows, 16))


def test_a_channels_last_model_takes_a_private_step():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)).to(
        memory_format=torch.channels_last
    )
    training = private(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        units=8,
        sampling_rate=0.5,
        delta=1e-3,
        noise_multiplier=1.0,
    )
    x = torch.randn(8, 1, 6, 6).contiguous(memory_format=torch.channels_last)
    for rows in training.batches(3):
        training.step(weighed, x[rows], torch.ones(len(rows), 2, 2, 2))


@pytest.mark.parametrize("target", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_target_that_limits_nothing_is_refused(target):
    model = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="target_epsilon"):
        private(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            units=8,
            sampling_rate=0.5,
            delta=1e-3,
            noise_multiplier=1.0,
            target_epsilon=target,
        )


def test_the_choice_of_methods_does_not_tell_how_many_films_a_patient_has():
    reasons = []
    for unit in (torch.arange(12), torch.arange(12) // 2):
        clipped = PerUnitClipping(nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64)))
        clipped.sum(Flat(1.0), weighed, torch.randn(12, 8), torch.ones(12, 64), unit)
        reasons.append([choice.reason for choice in clipped.explain()])
    assert reasons[0] == reasons[1]


def test_another_thread_may_evaluate_the_model_during_a_step():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 2))
    x, errors, stop = torch.randn(64, 8), [], threading.Event()
    clipped = PerUnitClipping(model, physical_batch=8)

    def total():
        return clipped.sum(Flat(1.0), weighed, x, torch.ones(64, 2)).gradients

    def evaluate():
        while not stop.is_set():
            try:
                with torch.no_grad():
                    model(torch.randn(3, 8))
            except Exception as err:
                errors.append(err)

    expected = total()
    other = threading.Thread(target=evaluate)
    other.start()
    try:
        for _ in range(20):
            assert all(torch.equal(a, b) for a, b in zip(total(), expected, strict=True))
    finally:
        stop.set()
        other.join()
    assert not errors
