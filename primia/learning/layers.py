"""Layers that help private training: standardised convolution weights, one more norm in a block.

Both act on the weights or on one film alone, never over a batch.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from primia.errors import ConfigError


def standardise(weight: Tensor, eps: float) -> Tensor:
    """Weights with mean 0 and, but for `eps`, L2 norm 1 in each output channel.

    weight: (out, in, ...), floating point, two dimensions or more. The mean and the (biased)
    variance are over all but the first: w_hat = (w - mean) / sqrt(variance * fan_in + eps), with
    fan_in the number of weights of one output channel. Weight Standardization (Qiao et al.,
    arXiv 1903.10520) with the scale 1 / sqrt(fan_in) of Brock et al. (arXiv 2101.08692), which
    keeps the variance of independent inputs. No gain: a normalisation that follows has its own.

    Raises ConfigError when a channel has one weight, of which nothing would be left.
    """
    fan_in = weight[0].numel()
    if fan_in < 2:
        raise ConfigError(
            f"weights {tuple(weight.shape)}: standardising one weight a channel leaves zero; "
            "use the plain convolution there"
        )
    # A layer norm over each row, (w - mean) / sqrt(variance + eps / fan_in), is the same but for
    # the scale, and fused: a quarter of the time of the formula in its parts, with the backward.
    rows = functional.layer_norm(weight.flatten(1), (fan_in,), eps=eps / fan_in)
    return (rows / math.sqrt(fan_in)).reshape(weight.shape)


class _WeightStandardised(nn.modules.conv._ConvNd):
    """A convolution with `standardised_weight()` in the place of `weight`, which is what is
    trained and stored."""

    eps = 1e-4

    def standardised_weight(self) -> Tensor:
        return standardise(self.weight, self.eps)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.standardised_weight(), self.bias)


class WeightStandardisedConv1d(_WeightStandardised, nn.Conv1d):
    """nn.Conv1d with standardised weights; the same arguments, parameters and shapes."""


class WeightStandardisedConv2d(_WeightStandardised, nn.Conv2d):
    """nn.Conv2d with standardised weights; the same arguments, parameters and shapes."""


class WeightStandardisedConv3d(_WeightStandardised, nn.Conv3d):
    """nn.Conv3d with standardised weights; the same arguments, parameters and shapes."""


class ScaleNormBlock(nn.Module):
    """A basic residual block with one more normalisation, after the sum and before the ReLU.

    ScaleNorm (Klause et al., arXiv 2203.00324): both branches of the sum have a scale of their
    own, and their mixture is put back on one scale. Takes the layers of `block`, a basic block
    as torchvision builds it (He et al., CVPR 2016), under their own names; `norm` is for as many
    channels as the block returns.
    """

    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    conv2: nn.Module
    bn2: nn.Module
    downsample: nn.Module | None

    def __init__(self, block: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        for name in ("conv1", "bn1", "relu", "conv2", "bn2", "downsample"):
            self.add_module(name, getattr(block, name))
        self.scale_norm = norm

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        inner = self.relu(self.bn1(self.conv1(x)))
        total = self.bn2(self.conv2(inner)) + identity
        output: Tensor = self.relu(self.scale_norm(total))
        return output
