"""The zoo: networks by name, without batch statistics, and their weights as one flat vector.

Norms are over one film's own values (group, layer) and never over a batch: batch statistics mix
the films of several patients, and then no bound on one patient's gradient holds. Global average
pooling makes both networks work at any input size, and makes them harder to invert than flattened
features.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from primia.config.plan import ModelTerms
from primia.errors import ConfigError, PeerError
from primia.learning.convert import add_weight_standardisation, group_count, train_only, validate
from primia.learning.layers import ScaleNormBlock

FloatVector = npt.NDArray[np.float32]
"""All parameters of a model, in the order of `model.parameters()`, shape (parameters,)."""

Network = Callable[[ModelTerms], nn.Module]
"""From a plan's terms to its network: `build_for`, or what an audit trains in its place."""

NAMES = ("small-cnn", "resnet18-gn")
_MIN_SIZE = 28


def build(
    name: str,
    *,
    input_size: int,
    channels: int,
    classes: int,
    seed: int = 0,
    scale_norm: bool = False,
    weight_standardisation: bool = False,
    trainable: str = "all",
) -> nn.Module:
    """A fresh network in training mode on the CPU, for inputs (n, channels, size, size).

    seed: fixes the initial weights (on one version of torch); torch's own generator is left as
        it was. Not a secret and not privacy randomness. The options below leave these weights as
        they are; scale_norm adds its own, which start from one and zero.
    scale_norm: one more GroupNorm after each residual sum (see `layers.ScaleNormBlock`).
    weight_standardisation: standardised convolution weights (see `layers.standardise`).
    trainable: which parameters have requires_grad, as in `convert.train_only`.

    Raises ConfigError for an unknown name or trainable, an input smaller than 28 px, and
    scale_norm for a network without residual sums.
    """
    if input_size < _MIN_SIZE:
        raise ConfigError(f"model.input_size {input_size}: {name} needs at least {_MIN_SIZE} px")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "small-cnn":
            if scale_norm:
                raise ConfigError(
                    "scale_norm: small-cnn has no residual sums to normalise; leave it out, or "
                    "choose resnet18-gn"
                )
            model: nn.Module = _small_cnn(input_size, channels, classes)
        elif name == "resnet18-gn":
            model = _resnet18_gn(channels, classes, scale_norm=scale_norm)
        else:
            raise ConfigError(f"model.name {name!r}: unknown; choose one of {', '.join(NAMES)}")
    if weight_standardisation:
        add_weight_standardisation(model)
    train_only(model, trainable)
    validate(model)
    return model


def build_for(terms: ModelTerms, seed: int = 0) -> nn.Module:
    """The network of a study plan, as `build` makes it."""
    return build(
        terms.name,
        input_size=terms.input_size,
        channels=terms.channels,
        classes=len(terms.classes),
        seed=seed,
        scale_norm=terms.scale_norm,
        weight_standardisation=terms.weight_standardisation,
        trainable=terms.trainable,
    )


def parameter_count(model: nn.Module) -> int:
    """Number of weights, trainable or not."""
    return sum(p.numel() for p in model.parameters())


def flatten(model: nn.Module) -> FloatVector:
    """A copy of all weights as one vector, those that are not trained too."""
    parts = [p.detach().cpu().numpy().ravel() for p in model.parameters()]
    return np.concatenate(parts).astype(np.float32, copy=False)


def load_flat(model: nn.Module, vector: FloatVector) -> None:
    """Put `vector` into `model`, in place. Raises PeerError unless float32, of the right length
    and finite; the model is then unchanged."""
    expected = parameter_count(model)
    if vector.dtype != np.float32 or vector.shape != (expected,):
        raise PeerError(
            f"weights: got {vector.dtype} {vector.shape}, this model has float32 ({expected},); "
            "both sides must run the same plan"
        )
    if not np.isfinite(vector).all():
        raise PeerError(
            "weights: not finite; the model diverged or was damaged, start from an earlier round"
        )
    start = 0
    with torch.no_grad():
        for p in model.parameters():
            part = vector[start : start + p.numel()].reshape(tuple(p.shape))
            p.copy_(torch.from_numpy(part.copy()))
            start += p.numel()


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(group_count(channels), channels)


def _small_cnn(input_size: int, channels: int, classes: int) -> nn.Sequential:
    """Stages of 3x3 convolution, tanh, halving; 14 k weights, 23 k from 48 px on.

    Noise grows with the square root of the number of weights and a hospital has some hundred
    patients: a small network is the accurate one here, not only the fast one. What gradients are
    made of matters as much, since clipping and noise eat the rest: tanh is bounded and centred
    (Papernot et al., AAAI 2021), and the norm takes from the pooled features what they have in
    common. With ReLU, a group norm per stage and no such norm, DP-SGD on three made-up hospitals
    stayed at AUC 0.74 where this network reaches 0.95, at half the time.
    """
    widths = (16, 32, 32) if input_size < 48 else (16, 32, 32, 32)
    layers: list[nn.Module] = []
    before = channels
    for width in widths:
        convolution = nn.Conv2d(before, width, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        layers += [convolution, nn.Tanh(), nn.MaxPool2d(2)]
        before = width
    head = nn.Linear(before, classes)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)  # start from a guess, not from a random opinion
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(before), head)


def _resnet18_gn(channels: int, classes: int, *, scale_norm: bool) -> nn.Module:
    """torchvision's ResNet-18 (He et al., CVPR 2016) with GroupNorm and a stem for `channels`."""
    from primia.learning.vision import resnet18  # late: half a second that the small CNN saves

    model: nn.Module = resnet18(weights=None, norm_layer=_group_norm, num_classes=classes)
    if channels != 3:
        stem = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        model.conv1 = stem
    if scale_norm:
        for stage, width in (("layer1", 64), ("layer2", 128), ("layer3", 256), ("layer4", 512)):
            blocks = [ScaleNormBlock(b, _group_norm(width)) for b in getattr(model, stage)]
            setattr(model, stage, nn.Sequential(*blocks))
    return model
