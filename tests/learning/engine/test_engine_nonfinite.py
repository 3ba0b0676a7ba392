"""One film that is not finite counts as zero, and reaches no other."""

from __future__ import annotations

import math

import pytest
import torch
from engine_check import UNEQUAL, l2, wave
from reference import loop_sum, relative_error
from torch import nn

from primia.learning.clipped import PerUnitClipping
from primia.learning.clipping import Automatic, Flat, PerLayer
from primia.learning.engine import Method, by_vmap
from primia.learning.layers import WeightStandardisedConv2d

METHODS = {
    "chosen": {},
    "held": dict.fromkeys("034", Method.PER_SAMPLE) | {"9": Method.PER_SAMPLE},
    "gram": dict.fromkeys("034", Method.UNFOLD_GRAM) | {"9": Method.GRAM},
    "pixels": {"0": Method.PIXEL_GRAM, "4": Method.PIXEL_GRAM},
}


def every_layer():
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.PReLU(4),
        nn.ConvTranspose2d(4, 4, 2, stride=2), WeightStandardisedConv2d(4, 4, 3),
        nn.InstanceNorm2d(4, affine=True), nn.LayerNorm(6), nn.RMSNorm(6), nn.Flatten(),
        nn.Linear(144, 3),
    ).double()  # fmt: skip


def films():
    return torch.randn(8, 1, 6, 6, dtype=torch.float64)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("row", [0, 4, 7])
@pytest.mark.parametrize("methods", METHODS)
def test_a_bad_film_counts_as_zero_with_its_whole_unit(bad, row, methods):
    model, x = every_layer(), films()
    x[row, 0, 2, 3] = bad
    # A physical batch of 16 steps by 2, of 3 by 1: with padding by row 0 and without.
    for unit in (torch.arange(8), UNEQUAL):
        expected = loop_sum(model, wave, x, torch.zeros(8), unit, 0.05)
        for physical in (3, 16, 64):
            clipped = PerUnitClipping(model, physical_batch=physical, methods=METHODS[methods])
            found = clipped.sum(Flat(0.05), wave, x, torch.zeros(8), unit)
            assert found.dropped == 1
            assert found.units == unit.unique().numel()
            assert relative_error([g.detach() for g in found.gradients], expected) < 1e-9


@pytest.mark.parametrize("clipping", [Flat, PerLayer, Automatic])
def test_only_bad_films_give_zeros_padded_or_not(clipping):
    model = every_layer()
    for rows in (1, 3, 8):
        x = films()[:rows] * math.nan
        found = PerUnitClipping(model).sum(clipping(0.05), wave, x, torch.zeros(rows))
        assert (found.units, found.dropped, found.within) == (rows, rows, 0)
        assert not any(g.any() for g in found.gradients)


@pytest.mark.parametrize("clipping", [Flat, PerLayer, Automatic])
def test_a_film_that_turns_bad_changes_the_sum_by_no_more_than_the_bound(clipping):
    model, x = every_layer(), films()
    clipped = PerUnitClipping(model)
    whole = clipped.sum(clipping(0.05), wave, x, torch.zeros(8)).gradients
    x[5] = math.inf
    without = clipped.sum(clipping(0.05), wave, x, torch.zeros(8)).gradients
    assert l2(a - b for a, b in zip(whole, without, strict=True)) <= 0.05


def test_a_gradient_too_large_for_float32_is_dropped_and_not_scaled():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    x = torch.randn(3, 4)
    x[1] = 1e30
    for method in (Method.PER_SAMPLE, Method.GRAM):
        clipped = PerUnitClipping(model, methods={"0": method})
        found = clipped.sum(Flat(1.0), lambda o, t: o.sum(1), x, torch.zeros(3))
        assert found.dropped == 1
        assert all(torch.isfinite(g).all() for g in found.gradients)
        assert l2(found.gradients) <= 2.0


def test_a_bad_loss_drops_its_row_alone():
    model, x = every_layer(), films()

    def loss(outputs, targets):
        return wave(outputs, targets) * targets

    targets = torch.ones(8, dtype=torch.float64)
    targets[2] = math.nan
    expected = loop_sum(model, loss, x, targets, torch.arange(8), 0.05)
    found = PerUnitClipping(model).sum(Flat(0.05), loss, x, targets)
    assert found.dropped == 1
    assert relative_error([g.detach() for g in found.gradients], expected) < 1e-9


def test_a_bad_row_of_a_module_called_twice_or_served_by_vmap_is_dropped():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Linear(5, 5)

        def forward(self, x):
            return self.shared(torch.tanh(self.shared(x)))

    torch.manual_seed(0)
    for rules in ({}, {Twice: by_vmap}):
        model = nn.Sequential(Twice()).double()
        x = torch.randn(8, 5, dtype=torch.float64)
        x[0, 1] = math.nan
        expected = loop_sum(model, wave, x, torch.zeros(8), UNEQUAL, 0.05)
        found = PerUnitClipping(model, rules=rules).sum(
            Flat(0.05), wave, x, torch.zeros(8), UNEQUAL
        )
        assert found.dropped == 1
        assert relative_error([g.detach() for g in found.gradients], expected) < 1e-9


def test_a_bad_film_among_embedded_indices_is_dropped():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.read = nn.Embedding(5, 4)

        def forward(self, x):
            return self.read(x[..., 0].long()) * x[..., 1:]

    torch.manual_seed(0)
    x = torch.rand(8, 3, 2, dtype=torch.float64) * 5
    x[0, 0, 1] = math.nan
    for method in (Method.PER_SAMPLE, Method.GRAM):
        model = Weighted().double()
        expected = loop_sum(model, wave, x, torch.zeros(8), UNEQUAL, 0.05)
        clipped = PerUnitClipping(model, methods={"read": method})
        found = clipped.sum(Flat(0.05), wave, x, torch.zeros(8), UNEQUAL)
        assert found.dropped == 1
        assert relative_error([g.detach() for g in found.gradients], expected) < 1e-9
