import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from primia.errors import ConfigError
from primia.learning.layers import (
    ScaleNormBlock,
    WeightStandardisedConv1d,
    WeightStandardisedConv2d,
    WeightStandardisedConv3d,
    standardise,
)
from primia.learning.vision import resnet18


@settings(deadline=None, max_examples=40)
@given(
    out=st.integers(1, 6),
    inner=st.lists(st.integers(1, 5), min_size=1, max_size=4).filter(lambda s: max(s) > 1),
    offset=st.floats(-3, 3),
    seed=st.integers(0, 2**31),
)
def test_standardised_weights_have_mean_zero_and_norm_one_per_channel(out, inner, offset, seed):
    weight = torch.randn(out, *inner, generator=torch.Generator().manual_seed(seed)) + offset
    rows = standardise(weight.double(), 0.0).flatten(1)
    assert torch.allclose(rows.mean(1), torch.zeros(out).double(), atol=1e-9)
    assert torch.allclose(rows.norm(dim=1), torch.ones(out).double(), atol=1e-9)


def test_the_formula_is_the_one_written_down():
    weight, eps = torch.tensor([[1.0, 2.0, 6.0]]), 0.5  # mean 3, variance 14/3, fan-in 3
    expected = torch.tensor([[-2.0, -1.0, 3.0]]) / (14 + eps) ** 0.5
    assert torch.allclose(standardise(weight, eps), expected)


def test_scale_and_offset_of_the_weights_do_not_matter_and_dead_channels_stay_finite():
    weight = torch.randn(4, 3, 3, 3)
    assert torch.allclose(standardise(7 * weight + 2, 1e-9), standardise(weight, 1e-9), atol=1e-4)
    assert torch.equal(standardise(torch.ones(2, 3), 1e-4), torch.zeros(2, 3))


def test_one_weight_a_channel_is_refused():
    with pytest.raises(ConfigError, match="use the plain convolution"):
        WeightStandardisedConv2d(4, 4, 1, groups=4)(torch.zeros(1, 4, 3, 3))


@pytest.mark.parametrize(
    ("layer", "plain", "shape"),
    [
        (WeightStandardisedConv1d, nn.functional.conv1d, (2, 4, 9)),
        (WeightStandardisedConv2d, nn.functional.conv2d, (2, 4, 9, 8)),
        (WeightStandardisedConv3d, nn.functional.conv3d, (2, 4, 6, 5, 7)),
    ],
)
def test_the_layers_convolve_with_the_standardised_weight(layer, plain, shape):
    films = torch.randn(shape)
    depthwise = layer(4, 8, 3, stride=2, padding=1, groups=4)
    weight = standardise(depthwise.weight, 1e-4)
    expected = plain(films, weight, depthwise.bias, stride=2, padding=1, groups=4)
    assert torch.allclose(depthwise(films), expected)
    assert torch.equal(depthwise.standardised_weight(), weight)
    assert not torch.allclose(depthwise(films), layer.__bases__[1].forward(depthwise, films))


def test_padding_by_name_and_by_reflection_is_kept():
    films = torch.randn(1, 2, 6, 6)
    conv = WeightStandardisedConv2d(2, 3, 3, padding="same", padding_mode="reflect", bias=False)
    padded = nn.functional.pad(films, (1, 1, 1, 1), mode="reflect")
    expected = nn.functional.conv2d(padded, conv.standardised_weight())
    assert torch.allclose(conv(films), expected)


def test_the_gradient_of_the_weights_goes_through_the_standardisation():
    conv = WeightStandardisedConv2d(2, 3, 3).double()
    conv(torch.randn(2, 2, 5, 5).double()).square().sum().backward()
    rows, weight = conv.weight.grad.flatten(1), conv.weight.detach().flatten(1)
    # w_hat does not change with an offset, and (but for eps) not with the scale, of a channel.
    assert torch.allclose(rows.sum(1), torch.zeros(3).double(), atol=1e-9)
    centred = weight - weight.mean(1, keepdim=True)
    along = (rows * centred).sum(1) / (rows.norm(dim=1) * centred.norm(dim=1))
    assert along.abs().max() < 1e-3


@pytest.mark.parametrize("stage", ["layer1", "layer2"])  # layer2 starts with a down-sampling
def test_a_scale_norm_block_normalises_the_sum_before_its_relu(stage):
    block = getattr(resnet18(weights=None, norm_layer=lambda c: nn.GroupNorm(4, c)), stage)[0]
    films = torch.randn(2, 64, 8, 8)
    same = ScaleNormBlock(block, nn.Identity())
    assert torch.allclose(same(films), block(films), atol=1e-6)
    width = block.conv2.out_channels
    assert ScaleNormBlock(block, nn.GroupNorm(4, width))(films).min() == 0  # the ReLU is last
    shifted = nn.GroupNorm(4, width)
    nn.init.constant_(shifted.bias, 10.0)  # far above zero: the ReLU after it changes nothing
    output = ScaleNormBlock(block, shifted)(films).unflatten(1, (4, width // 4)).flatten(2)
    assert torch.allclose(output.mean(2), torch.full((2, 4), 10.0), atol=1e-4)
    assert torch.allclose(output.std(2), torch.ones(2, 4), atol=1e-2)
