"""Random architectures agree with the loop to 1e-9 in float64."""

from __future__ import annotations

import torch
from engine_check import assert_equals_the_loop
from hypothesis import HealthCheck, Phase, event, given, seed, settings
from hypothesis import strategies as st
from torch import nn

from primia.learning.engine import Method
from primia.learning.layers import WeightStandardisedConv2d


class Residual(nn.Module):
    """Adds its input in place to what its layer makes, and cuts that off in place."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        y = self.layer(x)
        y += x
        return nn.functional.leaky_relu(y, 0.2, inplace=True)


@st.composite
def convolution(draw, channels, size):
    """A layer for (channels, size, size), its channels and its size."""
    groups = draw(st.sampled_from([g for g in (1, 2, 4) if channels % g == 0]))
    out = groups * draw(st.integers(1, 3))
    kernel = draw(st.integers(1, min(3, size)))
    bias = draw(st.booleans())
    if draw(st.integers(0, 3)) == 0 and size < 8:
        stride = draw(st.integers(1, 2))
        more = draw(st.integers(0, stride - 1))
        padding = draw(st.integers(0, kernel // 2))
        layer = nn.ConvTranspose2d(
            channels, out, kernel, stride, padding, more, groups=groups, bias=bias
        )
        return layer, out
    options = {
        "stride": draw(st.integers(1, 2)),
        "padding": draw(st.integers(0, 2)),
        "dilation": draw(st.integers(1, 2)) if size > 5 else 1,
        "padding_mode": draw(st.sampled_from(["zeros", "zeros", "circular", "replicate"])),
    }
    if options["padding_mode"] == "circular":
        options["padding"] = min(options["padding"], size)
    if draw(st.booleans()):
        options |= {"stride": 1, "padding": "same"}
    weights = channels // groups * kernel**2
    kinds = [nn.Conv2d, WeightStandardisedConv2d] if weights > 1 else [nn.Conv2d]
    kind = draw(st.sampled_from(kinds))
    return kind(channels, out, kernel, groups=groups, bias=bias, **options), out


@st.composite
def between(draw, channels, size):
    """A layer that keeps the shape."""
    groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
    choices = [
        lambda: nn.GroupNorm(groups, channels),
        lambda: nn.LayerNorm([channels, size, size]),
        lambda: nn.LayerNorm(size, bias=draw(st.booleans())),
        lambda: nn.RMSNorm([size, size]),
        lambda: nn.PReLU(draw(st.sampled_from([1, channels]))),
        lambda: nn.Linear(size, size, bias=draw(st.booleans())),
        nn.Tanh,
        nn.SiLU,
    ]
    if size > 1:
        choices.append(lambda: nn.InstanceNorm2d(channels, affine=True))
    return draw(st.sampled_from(choices))()


@st.composite
def networks(draw):
    """A chain of layers and residual blocks, and the shape of its films."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    channels, size = draw(st.integers(1, 4)), draw(st.integers(3, 7))
    film = (channels, size, size)
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["convolution", "between", "between", "residual"]))
        if kind == "convolution":
            layer, out = draw(convolution(channels, size))
            probe = layer(torch.zeros(1, channels, size, size))
            if probe.shape[2] < 1 or probe.shape[2] != probe.shape[3]:
                continue
            channels, size = out, probe.shape[2]
        else:
            layer = draw(between(channels, size))
            if kind == "residual":
                layer = Residual(nn.Sequential(layer, nn.Conv2d(channels, channels, 1)))
        layers.append(layer)
    layers += [nn.Flatten(), nn.Linear(channels * size * size, 3)]
    model = nn.Sequential(*layers).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    for parameter in list(model.parameters())[:-2]:
        parameter.requires_grad_(draw(st.integers(0, 5)) > 0)
    return model, film


def methods_of(model, draw):
    """A method of its own for some of the layers that have a choice."""
    found = {}
    for path, module in model.named_modules():
        if module is model or not any(p.requires_grad for p in module.parameters(recurse=False)):
            continue
        if isinstance(module, nn.Linear):
            options = [Method.PER_SAMPLE, Method.GRAM]
        elif isinstance(module, nn.Conv2d):
            options = [Method.PER_SAMPLE, Method.UNFOLD_GRAM]
            options += [Method.PIXEL_GRAM] if module.stride == (1, 1) else []
        elif isinstance(module, nn.ConvTranspose2d):
            options = [Method.PER_SAMPLE, Method.UNFOLD_GRAM]
        else:
            continue
        choice = draw(st.sampled_from([None, *options]))
        if choice is not None:
            found[path] = choice
    return found


@seed(20250101)
@settings(
    max_examples=40,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # shrinking a network takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(networks(), st.lists(st.integers(-1, 4), min_size=1, max_size=7), st.data())
def test_random_networks_with_random_units_equal_the_loop(network, unit, data):
    model, film = network
    torch.manual_seed(len(unit))
    x = torch.randn(len(unit), *film, dtype=torch.float64)
    methods = methods_of(model, data.draw)
    for method in methods.values():
        event(method.value)
    assert_equals_the_loop(
        model,
        x,
        unit=torch.tensor(unit),
        methods=methods,
        physical_batch=data.draw(st.sampled_from([1, 3, 64])),
    )
