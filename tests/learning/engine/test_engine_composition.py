"""Layers put together: units, batches, ties, residuals, frozen parts, half precision."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_check import UNEQUAL, assert_equals_the_loop, exactly, l2, wave
from reference import loop_sum, relative_error, unit_gradients
from torch import nn

from primia.learning.clipped import PerUnitClipping
from primia.learning.clipping import Automatic, Flat, PerLayer
from primia.learning.convert import train_only
from primia.learning.engine import Method, by_vmap
from primia.learning.layers import WeightStandardisedConv2d
from primia.learning.models import build


def small(dtype=torch.float64):
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2), nn.Flatten(), nn.Linear(24, 3),
    ).to(dtype)  # fmt: skip


def films(rows=8, dtype=torch.float64):
    return torch.randn(rows, 1, 6, 6, generator=torch.Generator().manual_seed(6)).to(dtype)


@pytest.mark.parametrize("physical", [1, 2, 3, 5, 7, 8, 20, 64])
@pytest.mark.parametrize("unit", [None, UNEQUAL], ids=["rows", "units"])
@pytest.mark.parametrize("method", [None, Method.PER_SAMPLE, "gram"])
def test_the_size_of_the_physical_batch_does_not_change_the_sum(physical, unit, method):
    forced = Method.UNFOLD_GRAM, Method.GRAM
    if method == Method.PER_SAMPLE:
        forced = method, method
    methods = {} if method is None else dict(zip("35", forced, strict=True))
    assert_equals_the_loop(small(), films(), unit=unit, physical_batch=physical, methods=methods)


def test_the_ids_and_the_order_of_units_do_not_matter():
    model, x = small(), films()
    order = torch.tensor([3, 7, 0, 2, 6, 1, 5, 4])
    clipped = PerUnitClipping(model)
    one = clipped.sum(Flat(0.05), wave, x, torch.zeros(8), UNEQUAL)
    other = clipped.sum(Flat(0.05), wave, x[order], torch.zeros(8), -7 * UNEQUAL[order] - 3)
    assert (
        relative_error([g.detach() for g in one.gradients], [g.detach() for g in other.gradients])
        < 1e-12
    )


def test_a_unit_of_equal_rows_counts_as_one_row():
    model, x = small(), films(3)
    clipped = PerUnitClipping(model)
    one = clipped.sum(Flat(0.05), wave, x, torch.zeros(3))
    many = clipped.sum(
        Flat(0.05), wave, x.repeat_interleave(4, 0), torch.zeros(12), torch.arange(12) // 4
    )
    assert many.units == 3
    assert (
        relative_error([g.detach() for g in many.gradients], [g.detach() for g in one.gradients])
        < 1e-9
    )


def test_targets_reach_their_own_rows():
    torch.manual_seed(0)
    loss = nn.CrossEntropyLoss(reduction="none")
    targets = torch.tensor([0, 1, 2, 0, 1, 2, 2, 1])
    for physical in (3, 64):
        assert_equals_the_loop(
            small(), films(), targets=targets, loss=loss, unit=UNEQUAL, physical_batch=physical
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_empty_batch_gives_zeros(dtype):
    model = small(dtype)
    found = PerUnitClipping(model).sum(
        Flat(1.0), wave, films(0, dtype), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    )
    assert (found.units, found.within, found.dropped) == (0, 0, 0)
    for gradient, parameter in zip(found.gradients, model.parameters(), strict=True):
        assert gradient.shape == parameter.shape
        assert gradient.dtype == dtype
        assert not gradient.any()
        assert not gradient.requires_grad


class Twice(nn.Module):
    def __init__(self, shared, before=None):
        super().__init__()
        self.shared = shared
        self.before = before

    def forward(self, x):
        x = x if self.before is None else self.before(x)
        return self.shared(torch.tanh(self.shared(x)))


SHARED = {
    "linear": (lambda: nn.Linear(5, 5), (8, 5), Method.GRAM),
    "linear-positions": (lambda: nn.Linear(5, 5), (8, 3, 5), Method.GRAM),
    "convolution": (lambda: nn.Conv2d(2, 2, 3, padding=1), (8, 2, 5, 5), Method.PIXEL_GRAM),
    "standardised": (
        lambda: WeightStandardisedConv2d(2, 2, 3, padding=1), (8, 2, 5, 5), Method.UNFOLD_GRAM,
    ),
    "transposed": (
        lambda: nn.ConvTranspose2d(2, 2, 3, padding=1), (8, 2, 5, 5), Method.UNFOLD_GRAM,
    ),
    "group-norm": (lambda: nn.GroupNorm(1, 2), (8, 2, 5, 5), None),
    "layer-norm": (lambda: nn.LayerNorm(5), (8, 3, 5), None),
    "rms-norm": (lambda: nn.RMSNorm(5), (8, 5), None),
    "prelu": (lambda: nn.PReLU(2), (8, 2, 5), None),
}  # fmt: skip


@pytest.mark.parametrize("case", SHARED)
@pytest.mark.parametrize("unit", [None, UNEQUAL], ids=["rows", "units"])
def test_a_module_called_twice_has_its_gradients_added_before_clipping(case, unit):
    make, shape, method = SHARED[case]
    torch.manual_seed(2)
    shared = make().double()
    for chosen in {None, method}:
        methods = {} if chosen is None else {"shared": chosen}
        x = torch.randn(shape, dtype=torch.float64)
        assert_equals_the_loop(Twice(shared), x, unit=unit, methods=methods)


def test_a_layer_norm_called_twice_leaves_the_gradients_of_others_alone():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.skip, self.norm = nn.Linear(5, 5), nn.LayerNorm(5)

        def forward(self, x):
            skip = self.skip(x)
            return self.norm(self.norm(x)) + skip

    torch.manual_seed(2)
    assert_equals_the_loop(Shared().double(), torch.randn(8, 5, dtype=torch.float64))


@pytest.mark.parametrize("unit", [None, UNEQUAL], ids=["rows", "units"])
def test_tied_weights_are_one_parameter(unit):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.read = nn.Embedding(6, 4)
            self.write = nn.Linear(4, 6)
            self.write.weight = self.read.weight

        def forward(self, x):
            return self.write(self.read(x))

    torch.manual_seed(2)
    x = torch.randint(0, 6, (8, 3))
    for methods in ({}, {"read": Method.GRAM, "write": Method.GRAM}):
        model = Tied().double()
        _, found = assert_equals_the_loop(model, x, unit=unit, methods=methods)
        assert len(found.gradients) == 2


@pytest.mark.parametrize("clipping", [Flat, PerLayer, Automatic])
def test_tied_weights_keep_the_bound_in_every_clipping(clipping):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    model[2].weight = model[0].weight
    x = 10 * torch.randn(1, 4, dtype=torch.float64)
    found = PerUnitClipping(model).sum(clipping(1e-3), wave, x, torch.zeros(1))
    assert l2(found.gradients) <= 1e-3


def test_a_child_that_also_stands_outside_its_by_vmap_parent_is_served():
    class Parent(nn.Module):
        def __init__(self, child):
            super().__init__()
            self.child, self.by = child, nn.Parameter(torch.ones(5))

        def forward(self, x):
            return self.child(x) * self.by

    torch.manual_seed(2)
    child = nn.Linear(5, 5)
    model = nn.Sequential(child, Parent(child)).double()
    x = torch.randn(8, 5, dtype=torch.float64)
    assert_equals_the_loop(model, x, rules={Parent: by_vmap})


class InPlaceBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(2, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(2, channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        y += x
        return self.relu(y)


@pytest.mark.parametrize("unit", [None, UNEQUAL], ids=["rows", "units"])
@pytest.mark.parametrize("method", [None, *(m for m in Method if m not in ("gram", "vmap"))])
def test_in_place_activations_and_residuals_equal_the_loop(unit, method):
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(inplace=True), InPlaceBlock(4), InPlaceBlock(4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).double()  # fmt: skip
    paths = [f"{block}.conv{i}" for block in (2, 3) for i in (1, 2)]
    methods = {} if method is None else dict.fromkeys(paths, method)
    assert_equals_the_loop(model, films(), unit=unit, methods=methods)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_resnet_equals_the_loop(channels_last):
    torch.manual_seed(2)
    model = build("resnet18-gn", input_size=28, channels=1, classes=2).double()
    x = torch.randn(4, 1, 28, 28, dtype=torch.float64)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    for parameter in list(model.parameters())[-2:]:
        nn.init.normal_(parameter, std=0.1)
    loss = nn.CrossEntropyLoss(reduction="none")
    targets, unit = torch.tensor([0, 1, 1, 0]), torch.tensor([1, 0, 2, 1])
    clipped, _ = assert_equals_the_loop(model, x, targets=targets, loss=loss, unit=unit)
    assert {c.method for c in clipped.explain()} >= {Method.PER_SAMPLE, Method.UNFOLD_GRAM}


@pytest.mark.parametrize(
    "trainable",
    [("0", "1"), ("3",), ("5",), ("0", "5"), ("3.weight", "5.bias"), ("3.bias",), ("1.weight",)],
)
def test_frozen_parts_stay_out_and_the_rest_equals_the_loop(trainable):
    model = small()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(trainable))
    _, found = assert_equals_the_loop(model, films(), unit=UNEQUAL)
    assert len(found.gradients) == sum(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("part", ["head", "bias"])
def test_training_one_part_only_equals_the_loop(part):
    torch.manual_seed(2)
    model = build("small-cnn", input_size=28, channels=1, classes=2).double()
    nn.init.normal_(list(model.parameters())[-2])
    train_only(model, part)
    assert_equals_the_loop(model, torch.randn(4, 1, 28, 28, dtype=torch.float64))


def test_biases_alone_equal_the_loop_for_every_kind_of_layer():
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, affine=True),
        WeightStandardisedConv2d(4, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 2, stride=2),
        nn.Conv2d(4, 4, 2, groups=2, padding="same"), nn.LayerNorm(8), nn.Linear(8, 3),
    ).double()  # fmt: skip
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    assert_equals_the_loop(model, films(), unit=UNEQUAL)
    model = model.to(memory_format=torch.channels_last)
    assert_equals_the_loop(model, films().to(memory_format=torch.channels_last))


def test_gradient_checkpointing_equals_the_loop():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, x):
            from torch.utils.checkpoint import checkpoint

            return checkpoint(self.second, self.first(x), use_reentrant=False)

    torch.manual_seed(2)
    x = torch.randn(8, 3, 5, dtype=torch.float64)
    methods = {"first": Method.GRAM, "second": Method.GRAM}
    assert_equals_the_loop(Checkpointed().double(), x, unit=UNEQUAL, methods=methods)


def half(model, clipping, x, unit=None, **engine):
    clipped = PerUnitClipping(model, **engine)
    with torch.autocast("cpu", torch.bfloat16):
        return clipped.sum(clipping, lambda o, t: wave(o.float(), t), x, torch.zeros(len(x)), unit)


@pytest.mark.parametrize("method", [None, Method.PER_SAMPLE, "gram"])
def test_bfloat16_autocast_is_near_the_loop_in_float64(method):
    model, x = small(torch.float32), films(dtype=torch.float32)
    forced = (method, method) if method == Method.PER_SAMPLE else (Method.UNFOLD_GRAM, Method.GRAM)
    methods = {} if method is None else dict(zip("35", forced, strict=True))
    found = half(model, Flat(1e-3), x, UNEQUAL, methods=methods)
    exact, exact_x = exactly(model, x)
    expected = loop_sum(exact, wave, exact_x, torch.zeros(8), UNEQUAL, 1e-3)
    assert relative_error([g.detach() for g in found.gradients], expected) < 0.05
    assert {g.dtype for g in found.gradients} == {torch.float32}


WIDE = {
    "linear": (lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), (64,)),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8)
        ),
        (2, 9, 9),
    ),
    "standardised": (
        lambda: nn.Sequential(WeightStandardisedConv2d(2, 8, 3), nn.ReLU(), nn.Linear(7, 5)),
        (2, 9, 9),
    ),
}


@pytest.mark.parametrize("case", ["linear", "convolution", "standardised"])
def test_under_bfloat16_autocast_each_unit_keeps_the_bound(case):
    make, shape = WIDE[case]
    worst = 0.0
    for seed in range(8):
        torch.manual_seed(seed)
        model, x = make(), 10 * torch.randn(1, *shape)
        gram = Method.UNFOLD_GRAM
        for methods in ({}, {"2": gram if case == "convolution" else Method.GRAM}):
            worst = max(worst, l2(half(model, Flat(1e-3), x, methods=methods).gradients) / 1e-3)
    # Clipped to 1 - 1e-3 of the bound: float32 gives that to 1e-4, whatever the forward was in.
    assert worst == pytest.approx(1 - 1e-3, abs=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(
            lambda: nn.PReLU(4),
        ),
        lambda: nn.GroupNorm(2, 4),
        lambda: nn.InstanceNorm2d(4, affine=True),
        lambda: nn.LayerNorm(4),
        lambda: nn.RMSNorm(4),
    ],
    ids=["prelu", "group", "instance", "layer", "rms"],
)
def test_every_layer_works_under_autocast(layer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), layer(), nn.Conv2d(4, 2, 2))
    x = films(dtype=torch.float32)
    found = half(model, Flat(1e-2), x)
    exact, exact_x = exactly(model, x)
    expected = loop_sum(exact, wave, exact_x, torch.zeros(8), torch.arange(8), 1e-2)
    assert relative_error([g.detach() for g in found.gradients], expected) < 0.05


def test_the_state_around_a_step_is_untouched():
    model = small()
    for n, parameter in enumerate(model.parameters()):
        parameter.grad = None if n % 2 else torch.full_like(parameter, 7.0)
    before = copy.deepcopy(model.state_dict())
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    for training in (True, False):
        model.train(training)
        model[1].train(not training)
        PerUnitClipping(model).sum(Flat(0.1), wave, films(), torch.zeros(8))
        assert model.training is training
        assert model[1].training is not training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert parameter.grad is None if grad is None else torch.equal(parameter.grad, grad)
        assert parameter.requires_grad
    assert torch.is_grad_enabled()
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_it_works_where_gradients_are_switched_off_outside():
    model = small()
    expected = PerUnitClipping(model).sum(Flat(0.1), wave, films(), torch.zeros(8)).gradients
    with torch.no_grad():
        found = PerUnitClipping(model).sum(Flat(0.1), wave, films(), torch.zeros(8)).gradients
        assert not torch.is_grad_enabled()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_sums_hold_no_graph():
    methods = {"3": Method.UNFOLD_GRAM, "5": Method.GRAM}
    found = PerUnitClipping(small(), methods=methods).sum(Flat(0.1), wave, films(), torch.zeros(8))
    assert not any(g.requires_grad for g in found.gradients)


def test_the_sums_are_the_callers_to_change():
    model = small()
    clipped = PerUnitClipping(model)
    with torch.no_grad():
        first = clipped.sum(Flat(0.1), wave, films(), torch.zeros(8)).gradients
        kept = [g.clone() for g in first]
        for gradient in first:
            gradient.fill_(3.0)
        second = clipped.sum(Flat(0.1), wave, films(), torch.zeros(8)).gradients
    assert all(torch.equal(a, b) for a, b in zip(kept, second, strict=True))


def test_dropout_is_drawn_anew_for_each_row_and_each_pass():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20), nn.Dropout(0.5), nn.Linear(20, 2)).double()
    x = torch.ones(1, 20, dtype=torch.float64)
    clipped = PerUnitClipping(model)

    def weight(rows):
        found = clipped.sum(Flat(1e9), wave, x.expand(rows, -1), torch.zeros(rows))
        return found.gradients[2].detach()

    one = weight(1)
    kept = one.any(0).double()
    assert 0 < kept.sum() < 20  # some features dropped, in the forward as in the backward pass
    assert not torch.equal(kept, weight(1).any(0).double())
    assert weight(30).any(0).all()  # 2^-30 a feature that all rows dropped it alike


def test_dropout_gives_the_gradient_of_the_mask_that_was_drawn():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20), nn.Dropout(0.5), nn.Linear(20, 2)).double()
    x = torch.randn(8, 20, dtype=torch.float64)
    torch.manual_seed(1)
    found = PerUnitClipping(model).sum(Flat(1e9), wave, x, torch.zeros(8)).gradients
    torch.manual_seed(1)
    expected = torch.autograd.grad(wave(model(x), None).sum(), list(model.parameters()))
    assert relative_error([g.detach() for g in found], expected) < 1e-12


def test_flat_clipping_with_a_bound_never_reached_is_the_plain_gradient():
    model, x = small(), films()
    found = PerUnitClipping(model).sum(Flat(1e9), wave, x, torch.zeros(8))
    expected = torch.autograd.grad(wave(model(x), None).sum(), list(model.parameters()))
    assert found.within == 8
    assert relative_error([g.detach() for g in found.gradients], expected) < 1e-12


@pytest.mark.parametrize("unit", [None, UNEQUAL], ids=["rows", "units"])
def test_per_layer_and_automatic_clipping_equal_their_formulas(unit):
    model, x = small(), films()
    ids = torch.arange(8) if unit is None else unit
    paths = [name.split(".")[0] for name, _ in model.named_parameters()]
    layers = sorted(set(paths))
    for make in (PerLayer, Automatic):
        clipping = make(0.05)
        expected = [torch.zeros_like(p) for p in model.parameters()]
        for gradients in unit_gradients(model, wave, x, torch.zeros(8), ids).values():
            norms = [l2(g for g, q in zip(gradients, paths, strict=True) if q == p) for p in layers]
            squared = torch.tensor(norms, dtype=torch.float64).square()[:, None]
            factors = dict(zip(layers, clipping.factors(squared)[:, 0].tolist(), strict=True))
            for total, gradient, path in zip(expected, gradients, paths, strict=True):
                total.data += factors[path] * gradient
        found = PerUnitClipping(model).sum(clipping, wave, x, torch.zeros(8), unit)
        assert (
            relative_error([g.detach() for g in found.gradients], [e.detach() for e in expected])
            < 1e-9
        )
