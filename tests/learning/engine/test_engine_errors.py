"""What cannot be clipped is refused by name, and the model is as before."""

from __future__ import annotations

import pytest
import torch
from engine_check import assert_equals_the_loop, wave
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from primia.errors import ConfigError, StateError
from primia.learning.clipped import PerUnitClipping
from primia.learning.clipping import Flat
from primia.learning.engine import Method, by_vmap
from primia.learning.layers import WeightStandardisedConv2d


def step(model, x, loss=wave, **engine):
    return PerUnitClipping(model, **engine).sum(Flat(0.1), loss, x, torch.zeros(len(x)))


def inside(layer):
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Identity(), layer))


class OwnForward(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class OwnCall(nn.Linear):
    def __call__(self, x):
        return 2 * super().__call__(x)


class OwnConvolution(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, 2 * weight, bias)


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x + self.token


def replaced():
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: x
    return layer


UNKNOWN = {
    "bare parameter": (Bare, "1.1", "Bare"),
    "own forward": (lambda: OwnForward(4, 4), "1.1", "OwnForward"),
    "own call": (lambda: OwnCall(4, 4), "1.1", "OwnCall"),
    "own convolution": (lambda: OwnConvolution(1, 1, 1), "1.1", "OwnConvolution"),
    "weight_norm": (lambda: weight_norm(nn.Linear(4, 4)), "1.1", "weight_g, weight_v"),
    "weight_norm without bias": (
        lambda: weight_norm(nn.Conv2d(1, 1, 3, bias=False)), "1.1", "weight_g, weight_v",
    ),
    "parametrised": (
        lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
        "1.1.parametrizations.weight", "rule",
    ),
    "attention": (lambda: nn.MultiheadAttention(4, 2), "1.1", "MultiheadAttention"),
    "recurrent": (lambda: nn.LSTM(4, 4), "1.1", "LSTM"),
    "bag": (lambda: nn.EmbeddingBag(4, 4), "1.1", "EmbeddingBag"),
    "parameter list": (lambda: nn.ParameterList([torch.ones(2)]), "1.1", "ParameterList"),
    "forward replaced": (replaced, "1.1", "replaced on the object"),
    "batch norm": (lambda: nn.BatchNorm1d(4), "1.1", "BatchNorm1d"),
    "batch norm without weights": (lambda: nn.BatchNorm1d(4, affine=False), "1.1", "BatchNorm1d"),
    "running statistics": (
        lambda: nn.InstanceNorm1d(4, track_running_stats=True), "1.1", "running",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("case", UNKNOWN)
def test_a_layer_that_cannot_be_clipped_is_refused_by_its_path(case):
    make, path, said = UNKNOWN[case]
    with pytest.raises(ConfigError) as refused:
        PerUnitClipping(inside(make()))
    assert f"'{path}'" in str(refused.value)
    assert said in str(refused.value)


def test_the_refusal_of_an_unknown_layer_names_the_remedies():
    with pytest.raises(ConfigError, match=r"`rules`.*`by_vmap`.*requires_grad_\(False\)"):
        PerUnitClipping(inside(Bare()))


def test_an_unknown_layer_that_is_frozen_is_not_refused():
    x = torch.randn(8, 4, dtype=torch.float64)
    for layer in (Bare(), OwnForward(4, 4)):
        model = inside(layer.requires_grad_(False)).double()
        assert_equals_the_loop(model, x)


def test_a_subclass_that_computes_the_same_is_served():
    class Renamed(nn.Linear):
        pass

    assert_equals_the_loop(inside(Renamed(4, 4)).double(), torch.randn(8, 4).double())


def test_a_subclass_with_another_standardisation_is_refused_or_right():
    class Doubled(WeightStandardisedConv2d):
        def standardised_weight(self):
            return 2 * super().standardised_weight()

    torch.manual_seed(0)
    model = nn.Sequential(Doubled(1, 2, 3)).double()
    x = torch.randn(8, 1, 5, 5, dtype=torch.float64)
    try:
        clipped = PerUnitClipping(model)
    except ConfigError:
        return
    seen = []
    clipped.sum(Flat(1.0), lambda o, t: seen.append(o.detach()) or wave(o, t), x, torch.zeros(8))
    assert torch.allclose(seen[0][:8], model(x))


def test_a_model_without_trainable_parameters_is_refused():
    for model in (nn.Sequential(nn.Linear(2, 2)).requires_grad_(False), nn.Sequential(nn.ReLU())):
        with pytest.raises(ConfigError, match=r"no trainable parameter.*requires_grad"):
            PerUnitClipping(model)


def test_methods_for_an_unknown_path_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'1\.7'.*0, 1\.1"):
        PerUnitClipping(inside(nn.Linear(4, 4)), methods={"1.7": Method.GRAM})


def test_an_unknown_method_is_refused():
    with pytest.raises(ConfigError, match=r"'1\.1'.*fast"):
        PerUnitClipping(inside(nn.Linear(4, 4)), methods={"1.1": "fast"})


@pytest.mark.parametrize(
    ("layer", "method"),
    [
        (lambda: nn.Conv2d(1, 1, 3, stride=2), Method.PIXEL_GRAM),
        (lambda: nn.Conv1d(4, 1, 3), Method.PIXEL_GRAM),
        (lambda: nn.Conv2d(1, 1, 3), Method.GRAM),
        (lambda: nn.Conv2d(1, 1, 3), Method.VMAP),
        (lambda: nn.Linear(4, 4), Method.UNFOLD_GRAM),
        (lambda: nn.GroupNorm(1, 4), Method.GRAM),
    ],
)
def test_a_method_that_the_layer_does_not_have_is_refused_by_its_path(layer, method):
    model = inside(layer())
    shape = (8, 4, 4) if isinstance(model[1][1], nn.Conv1d) else (8, 1, 4, 4)
    if isinstance(model[1][1], nn.Linear | nn.GroupNorm):
        shape = (8, 4)
    with pytest.raises(ConfigError, match=r"'1\.1'"):
        step(model, torch.randn(shape), methods={"1.1": method})


class Uses(nn.Module):
    """Uses its child's weight in whichever way it is told."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.first = nn.Linear(4, 4)
        self.child = nn.Linear(4, 4)

    def forward(self, x):
        return self.how(self.child, self.first(x))


FAULTY = {
    "by a function": (lambda m, x: nn.functional.linear(x, m.weight, m.bias), "child.weight"),
    "beside a call": (lambda m, x: m(x) + x * m.bias, "child.bias"),
    "its weight in a penalty": (lambda m, x: m(x) + m.weight.square().mean(), "child.weight"),
    "not at all": (lambda m, x: x, "child.weight"),
    "without gradient": (lambda m, x: x + m(x).detach(), "child.weight"),
    "one row": (lambda m, x: m(x[0]) + x, "child"),
}


@pytest.mark.parametrize("case", FAULTY)
def test_a_parameter_that_would_not_be_clipped_is_refused_by_its_name(case):
    how, name = FAULTY[case]
    model = Uses(how)
    with pytest.raises(ConfigError, match=f"'{name}'"):
        step(model, torch.randn(8, 4))
    model.how = lambda m, x: m(x)
    assert_equals_the_loop(model.double(), torch.randn(8, 4).double())


ROWS = {
    "one position for all": lambda m, x: m(x[:1]) + x,
    "fewer": lambda m, x: m(x[1:]).mean(0) + x,
    "more": lambda m, x: m(x.repeat(2, 1)).view(2, len(x), -1).sum(0),
    "positions as rows": lambda m, x: m(torch.eye(4)).sum(0) + x,
}


@pytest.mark.parametrize("case", ROWS)
@pytest.mark.parametrize("method", [Method.PER_SAMPLE, Method.GRAM])
def test_a_layer_that_sees_other_rows_than_the_batch_is_refused_by_its_path(case, method):
    with pytest.raises(ConfigError, match="'child'"):
        step(Uses(ROWS[case]), torch.randn(8, 4), methods={"child": method})


LAYERS = {
    "linear": (lambda: nn.Linear(4, 4), (8, 4)),
    "convolution": (lambda: nn.Conv2d(8, 2, 3), (8, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose1d(8, 2, 3), (8, 5)),
    "instance": (lambda: nn.InstanceNorm2d(8, affine=True), (5, 5, 5)),
    "layer": (lambda: nn.LayerNorm((8, 4)), (8, 4)),
    "rms": (lambda: nn.RMSNorm((8, 4)), (8, 4)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_an_input_without_a_row_dimension_is_refused_by_the_layers_path(case):
    make, shape = LAYERS[case]
    model = nn.Sequential(make())
    x = torch.randn(shape)
    if case == "linear":
        model = nn.Sequential(Reshape(), model[0])
        with pytest.raises(ConfigError, match=r"'1'.*each row's own"):
            step(model, x)
        return
    with pytest.raises(ConfigError, match=r"'0'.*each row's own"):
        step(model, x)


class Reshape(nn.Module):
    def forward(self, x):
        return x[0]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.InstanceNorm1d(8, affine=True), (8, 8)),
        (lambda: nn.InstanceNorm2d(8, affine=True), (5, 8, 5)),
    ],
)
def test_an_unbatched_input_is_refused_also_where_its_sizes_look_right(layer, shape):
    with pytest.raises(ConfigError, match=r"'0'.*each row's own"):
        step(nn.Sequential(layer()), torch.randn(shape))


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, t: wave(o, t).mean(),
        lambda o, t: wave(o, t).sum()[None],
        lambda o, t: o,
        lambda o, t: wave(o, t)[1:],
        lambda o, t: wave(o, t)[:, None],
    ],
)
def test_a_loss_that_is_not_one_value_a_row_is_refused_with_the_remedy(loss):
    with pytest.raises(ConfigError, match=r"loss.*reduction='none'"):
        step(inside(nn.Linear(4, 4)), torch.randn(8, 4), loss)


def test_by_vmap_refuses_what_it_cannot_map_by_its_path():
    class Lists(Bare):
        def forward(self, x):
            return x[0] + self.token if isinstance(x, list) else [x + self.token]

    with pytest.raises(ConfigError, match=r"'1\.1'.*one tensor"):
        step(inside(Lists()), torch.randn(8, 4), rules={Lists: by_vmap})

    class Folds(Bare):
        def forward(self, x):
            return (x + self.token).sum(0)

    with pytest.raises(ConfigError, match=r"'1\.1'.*one tensor"):
        step(inside(Folds()), torch.randn(8, 4), rules={Folds: by_vmap})


def test_an_embedding_whose_gradient_depends_on_the_batch_is_refused():
    model = nn.Sequential(nn.Embedding(4, 4, scale_grad_by_freq=True))
    with pytest.raises(ConfigError, match=r"'0'.*scale_grad_by_freq"):
        PerUnitClipping(model).sum(Flat(0.1), wave, torch.randint(0, 4, (8, 2)), torch.zeros(8))


class Fragile(nn.Module):
    """Fails in the forward or in the backward pass, when told."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), Bare(), nn.Linear(4, 3))
        self.fails = ""

    def forward(self, x):
        y = self.layers[1](self.layers[0](x))
        if self.fails == "forward":
            raise ValueError("a bug of the model")
        if self.fails == "backward":
            y.register_hook(_raise)
        if self.fails == "interrupt":
            raise KeyboardInterrupt
        return self.layers[2](y)


def _raise(grad):
    raise ValueError("a bug of the model")


@pytest.mark.parametrize("when", ["forward", "backward", "loss", "interrupt"])
def test_after_any_error_the_model_is_as_before_and_works(when):
    torch.manual_seed(0)
    model = Fragile().double()
    x = torch.randn(8, 4, dtype=torch.float64)
    before = model(x)
    clipped = PerUnitClipping(model, rules={Bare: by_vmap})

    def loss(outputs, targets):
        if when == "loss" and model.fails:
            raise ValueError("a bug of the loss")
        return wave(outputs, targets)

    model.fails = when
    with pytest.raises((ValueError, KeyboardInterrupt)):
        clipped.sum(Flat(0.1), loss, x, torch.zeros(8))
    model.fails = ""
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert torch.equal(model(x), before)
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())
    expected = PerUnitClipping(model, rules={Bare: by_vmap}).sum(Flat(0.1), wave, x, torch.zeros(8))
    found = clipped.sum(Flat(0.1), loss, x, torch.zeros(8))
    assert all(torch.equal(a, b) for a, b in zip(found.gradients, expected.gradients, strict=True))


def test_a_forward_replaced_after_construction_is_refused_and_kept():
    model = inside(nn.Linear(4, 4))
    clipped = PerUnitClipping(model)
    layer = model[1][1]
    layer.forward = mine = lambda x: 3 * x
    with pytest.raises(StateError, match="forward replaced"):
        clipped.sum(Flat(0.1), wave, torch.randn(8, 4), torch.zeros(8))
    assert layer.__dict__["forward"] is mine


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda layer: layer.weight.requires_grad_(False),
        ),
        pytest.param(
            lambda layer: layer.register_parameter("weight", nn.Parameter(torch.ones(4, 4))),
        ),
    ],
    ids=["frozen", "another-parameter"],
)
def test_parameters_that_changed_after_construction_are_refused(change):
    model = inside(nn.Linear(4, 4))
    clipped = PerUnitClipping(model)
    change(model[1][1])
    with pytest.raises(StateError, match="changed"):
        clipped.sum(Flat(0.1), wave, torch.randn(8, 4), torch.zeros(8))
