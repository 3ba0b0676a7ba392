"""Every layer with a rule, by every method and kernel, against the loop."""

from __future__ import annotations

import pytest
import torch
from engine_check import (
    UNEQUAL,
    assert_equals_in_both_precisions,
    assert_equals_the_loop,
)
from torch import nn

from primia.learning.engine import Method, by_vmap, convolution
from primia.learning.layers import (
    WeightStandardisedConv1d,
    WeightStandardisedConv2d,
    WeightStandardisedConv3d,
)

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
STANDARDISED = {
    1: WeightStandardisedConv1d,
    2: WeightStandardisedConv2d,
    3: WeightStandardisedConv3d,
}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SPATIAL = {1: (9,), 2: (7, 6), 3: (5, 4, 6)}

PLAIN = {
    "bare": {},
    "no-bias": {"bias": False},
    "padding": {"padding": 2},
    "stride": {"stride": 2, "padding": 1},
    "wide-stride": {"stride": 3},
    "dilation": {"dilation": 2, "padding": 2},
    "groups": {"groups": 2, "padding": 1},
    "depthwise": {"groups": 4},
    "strided-dilated-groups": {"groups": 2, "stride": 2, "dilation": 2, "padding": 2},
    "same": {"padding": "same"},
    "same-dilated": {"padding": "same", "dilation": 2},
    "same-even": {"padding": "same", "kernel_size": 2},
    "same-even-dilated": {"padding": "same", "kernel_size": 4, "dilation": 1},
    "valid": {"padding": "valid"},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "reflect": {"padding": 2, "padding_mode": "reflect", "stride": 2},
    "replicate-same": {"padding": "same", "padding_mode": "replicate"},
    "pointwise": {"kernel_size": 1},
    "pointwise-strided": {"kernel_size": 1, "stride": 2},
}
PER_DIMENSION = {"kernel_size": (1, 2, 3), "stride": (1, 2, 1), "padding": (0, 1, 2)}
BACK = {
    "bare": {},
    "no-bias": {"bias": False},
    "stride": {"stride": 2},
    "output-padding": {"stride": 3, "output_padding": 2, "padding": 1},
    "dilation": {"dilation": 2, "padding": 1},
    "groups": {"groups": 2, "stride": 2, "padding": 1, "output_padding": 1},
}


def _methods(stride):
    methods = [None, Method.PER_SAMPLE, Method.UNFOLD_GRAM]
    return [*methods, Method.PIXEL_GRAM] if stride == 1 else methods


def _forced(method):
    return {} if method is None else {"1": method}


@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kinds", [CONV, STANDARDISED], ids=["plain", "standardised"])
def test_a_convolution_equals_the_loop_by_every_method(kinds, dims, case):
    options = {"kernel_size": 3, **PLAIN[case]}

    def make():
        return nn.Sequential(CONV[dims](2, 4, 1), kinds[dims](4, 8, **options), nn.Tanh())

    x = torch.randn(8, 2, *SPATIAL[dims])
    for method in _methods(options.get("stride", 1)):
        if method is Method.PIXEL_GRAM and dims != 2:
            continue
        assert_equals_in_both_precisions(make, x, methods=_forced(method))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_convolution_may_differ_in_each_dimension(dims):
    options = {name: value[-dims:] for name, value in PER_DIMENSION.items()}

    def make():
        return nn.Sequential(CONV[dims](2, 4, 1), CONV[dims](4, 6, **options), nn.Tanh())

    x = torch.randn(8, 2, *SPATIAL[dims])
    for method in (None, Method.PER_SAMPLE, Method.UNFOLD_GRAM):
        assert_equals_in_both_precisions(make, x, methods=_forced(method))


@pytest.mark.parametrize("case", BACK)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_transposed_convolution_equals_the_loop_by_every_method(dims, case):
    def make():
        back = TRANSPOSED[dims](4, 6, 3, **BACK[case])
        return nn.Sequential(CONV[dims](2, 4, 1), back, nn.Tanh())

    x = torch.randn(8, 2, *(size - 2 for size in SPATIAL[dims]))
    for method in (None, Method.PER_SAMPLE, Method.UNFOLD_GRAM):
        assert_equals_in_both_precisions(make, x, methods=_forced(method))


def test_a_transposed_convolution_takes_an_output_size():
    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(2, 4, 1)
            self.up = nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1)

        def forward(self, x):
            return self.up(self.first(x), output_size=[10, 9])

    for method in (Method.PER_SAMPLE, Method.UNFOLD_GRAM):
        assert_equals_in_both_precisions(Up, torch.randn(8, 2, 5, 5), methods={"up": method})


@pytest.mark.parametrize(("loop", "grouped"), [(0, 0), (1e12, 0), (1e12, 1 << 40)])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_each_kernel_of_per_sample_gradients_equals_the_loop(monkeypatch, dims, loop, grouped):
    monkeypatch.setattr(convolution, "_LOOP_FROM", loop)
    monkeypatch.setattr(convolution, "_GROUPED_FROM", grouped)
    for options in ({"groups": 2, "padding": 1}, {"stride": 2, "dilation": 2, "padding": 2}):
        for kind in (CONV, STANDARDISED, TRANSPOSED):

            def make(kind=kind, options=options):
                return nn.Sequential(CONV[dims](2, 4, 1), kind[dims](4, 6, 3, **options), nn.Tanh())

            methods = {"0": Method.PER_SAMPLE, "1": Method.PER_SAMPLE}
            assert_equals_in_both_precisions(
                make, torch.randn(8, 2, *SPATIAL[dims]), methods=methods
            )


def test_a_layer_whose_output_is_one_position_equals_the_loop():
    def make():
        return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 9, 5, padding=1))

    for method in (None, *(m for m in Method if m not in (Method.GRAM, Method.VMAP))):
        assert_equals_in_both_precisions(make, torch.randn(8, 2, 3, 3), methods=_forced(method))


@pytest.mark.parametrize("shape", [(8, 5), (8, 3, 5), (8, 2, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("method", [None, Method.PER_SAMPLE, Method.GRAM])
def test_a_linear_layer_equals_the_loop(shape, bias, method):
    def make():
        return nn.Sequential(nn.Linear(5, 7, bias), nn.Linear(7, 4, bias), nn.Tanh())

    methods = {} if method is None else {"0": method, "1": method}
    assert_equals_in_both_precisions(make, torch.randn(shape), methods=methods)


@pytest.mark.parametrize("shape", [(8,), (8, 6), (8, 2, 3)])
@pytest.mark.parametrize("integer", [torch.int64, torch.int32])
@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("method", [None, Method.PER_SAMPLE, Method.GRAM])
def test_an_embedding_equals_the_loop_and_its_padding_learns_nothing(
    shape, integer, padding, method
):
    def make():
        return nn.Sequential(nn.Embedding(4, 5, padding_idx=padding), nn.Linear(5, 3))

    x = torch.arange(torch.Size(shape).numel()).mul(7).remainder(11).remainder(4)
    methods = {} if method is None else {"0": method}
    assert_equals_in_both_precisions(make, x.view(shape).to(integer), methods=methods)


NORMS = {
    "group": (lambda: nn.GroupNorm(2, 6), 2),
    "group-1d": (lambda: nn.GroupNorm(3, 6), 1),
    "group-3d": (lambda: nn.GroupNorm(1, 6), 3),
    "instance-1d": (lambda: nn.InstanceNorm1d(6, affine=True), 1),
    "instance-2d": (lambda: nn.InstanceNorm2d(6, affine=True), 2),
    "instance-3d": (lambda: nn.InstanceNorm3d(6, affine=True), 3),
    "layer": (lambda: nn.LayerNorm(4), 2),
    "layer-all": (lambda: nn.LayerNorm([6, 4, 4]), 2),
    "layer-no-bias": (lambda: nn.LayerNorm(4, bias=False), 2),
    "rms": (lambda: nn.RMSNorm(4), 2),
    "rms-eps": (lambda: nn.RMSNorm([4, 4], eps=0.3), 2),
    "prelu": (lambda: nn.PReLU(6), 2),
    "prelu-one": (lambda: nn.PReLU(), 1),
}


@pytest.mark.parametrize("case", NORMS)
def test_a_normalisation_or_activation_with_weights_equals_the_loop(case):
    norm, dims = NORMS[case]

    def make():
        layer = norm()
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, 0.2, 1.5)
        return nn.Sequential(CONV[dims](2, 6, 1), layer, CONV[dims](6, 3, 2))

    assert_equals_in_both_precisions(make, torch.randn(8, 2, *[4] * dims))


def test_group_norm_without_positions_equals_the_loop():
    def make():
        return nn.Sequential(nn.Linear(5, 6), nn.GroupNorm(2, 6), nn.Linear(6, 3))

    assert_equals_in_both_precisions(make, torch.randn(8, 5))


class _Pair(nn.Module):
    """Feeds a Bilinear layer with both halves of its input."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.both = nn.Bilinear(2, 4, 3)

    def forward(self, x):
        a, b = self.first(x).split([2, 4], dim=-1)
        return self.both(a.contiguous(), b.contiguous())


@pytest.mark.parametrize("shape", [(8, 6), (8, 3, 6)])
def test_bilinear_equals_the_loop(shape):
    assert_equals_in_both_precisions(_Pair, torch.randn(shape))


class _Gated(nn.Module):
    """A user's own layer: a bare parameter, and a child whose weight it uses by itself."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.linspace(0.5, 1.5, 4))
        self.child = nn.Linear(4, 4)

    def forward(self, x):
        return torch.tanh(x * self.gate) @ self.child.weight + self.child(x)


def test_a_users_module_is_served_as_a_whole_by_vmap():
    def make():
        return nn.Sequential(nn.Linear(5, 4), _Gated(), nn.Linear(4, 3))

    assert_equals_in_both_precisions(make, torch.randn(8, 5), rules={_Gated: by_vmap})
    assert_equals_in_both_precisions(make, torch.randn(8, 2, 5), rules={_Gated: by_vmap})


def test_vmap_in_small_chunks_equals_the_loop(monkeypatch):
    monkeypatch.setattr("primia.learning.engine.generic._CHUNK_BYTES", 4 * 24 * 3)
    assert_equals_in_both_precisions(
        lambda: nn.Sequential(nn.Linear(5, 4), _Gated()),
        torch.randn(8, 5),
        rules={_Gated: by_vmap},
    )


class _Functional(nn.Module):
    """Has no parameter of its own, but uses those of its child by itself."""

    def __init__(self):
        super().__init__()
        self.child = nn.Linear(5, 4, bias=False)

    def forward(self, x):
        return nn.functional.linear(x, self.child.weight)


def test_a_module_whose_parameters_are_all_its_childrens_is_served_by_its_rule():
    assert_equals_in_both_precisions(
        lambda: nn.Sequential(_Functional()).requires_grad_(True),
        torch.randn(8, 5),
        rules={_Functional: by_vmap},
    )


class _Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.linspace(0.5, 1.5, 4))

    def forward(self, x):
        return x * self.by


class _BookedScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, by, layer):
        ctx.layer = layer
        ctx.save_for_backward(x, by)
        return x * by

    @staticmethod
    def backward(ctx, grad):
        x, by = ctx.saved_tensors
        ctx.layer.enter_gradients("by", grad * x)
        return grad * by, None, None


def test_a_users_module_is_served_by_its_own_rule_and_so_are_its_subclasses():
    class Special(_Scale):
        pass

    def rule(layer, x):
        layer.called(x)
        return _BookedScale.apply(x, layer.module.by, layer)

    for kind in (_Scale, Special):
        assert_equals_in_both_precisions(
            lambda kind=kind: nn.Sequential(nn.Linear(5, 4), kind(), nn.Linear(4, 3)),
            torch.randn(8, 5),
            rules={_Scale: rule},
        )


@pytest.mark.parametrize("case", ["group", "instance-2d", "layer-all", "rms", "prelu"])
def test_channels_last_gives_what_the_plain_format_gives(case):
    norm, _ = NORMS[case]
    for dtype in (torch.float64, torch.float32):
        for unit in (None, UNEQUAL):
            torch.manual_seed(4)
            model = nn.Sequential(
                nn.Conv2d(2, 6, 1), norm(), nn.Conv2d(6, 6, 3, padding=1),
                WeightStandardisedConv2d(6, 4, 3, stride=2), nn.ConvTranspose2d(4, 3, 2),
            ).to(dtype, memory_format=torch.channels_last)  # fmt: skip
            x = torch.randn(8, 2, 4, 4, dtype=dtype).to(memory_format=torch.channels_last)
            for method in (None, Method.PER_SAMPLE, Method.UNFOLD_GRAM):
                chosen = {} if method is None else dict.fromkeys("234", method)
                assert_equals_the_loop(model, x, unit=unit, methods=chosen)


def test_three_dimensional_channels_last_gives_what_the_plain_format_gives():
    torch.manual_seed(4)
    model = nn.Sequential(nn.Conv3d(2, 6, 1), nn.GroupNorm(2, 6), nn.Conv3d(6, 4, 3)).double()
    model = model.to(memory_format=torch.channels_last_3d)
    x = torch.randn(8, 2, 4, 4, 4).double().to(memory_format=torch.channels_last_3d)
    assert_equals_the_loop(model, x)
