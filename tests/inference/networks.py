"""Networks to prepare, with weights as after some training, and films to ask for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from primia.imaging.dataset import Pixels
from primia.imaging.synth import synthesise
from primia.inference.prepare import Prepared, Wanted, prepare
from primia.learning.models import build

CLASSES = ("normal", "bacterial", "viral")


def films(count: int, size: int, seed: int = 0) -> Pixels:
    return synthesise(count, size=size, seed=seed).pixels[:count]


def inputs(pixels: Pixels, channels: int) -> Tensor:
    """As `primia.learning.local.to_input`, in float64."""
    x = torch.from_numpy(pixels).double()
    x = x - x.mean((1, 2), keepdim=True)
    x = x / x.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1)
    return x[:, None].expand(-1, channels, -1, -1)


def zoo(name: str, size: int, channels: int = 1, **options: bool) -> nn.Module:
    """A network of the zoo whose head and norms are no longer as they started."""
    model = build(name, input_size=size, channels=channels, classes=3, seed=1, **options)
    torch.manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    head = model[-1] if isinstance(model, nn.Sequential) else model.fc
    nn.init.normal_(head.weight, 0, 0.3 if isinstance(model, nn.Sequential) else 0.05)
    return model


def torchvision_resnet(make: Any, size: int, channels: int = 1) -> nn.Module:
    """With batch norms that have seen films."""
    torch.manual_seed(1)
    model: nn.Module = make(weights=None, num_classes=3)
    if channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    x = inputs(films(12, size, seed=5), channels).float()
    with torch.no_grad():
        for _ in range(4):
            model(x)
    return model.eval()


def prepared(model: nn.Module, pixels: Pixels, channels: int = 1, **changes: Any) -> Prepared:
    wanted = Wanted(**{"classes": CLASSES, "answer": "logits", "channels": channels} | changes)
    return prepare(model, wanted, pixels, model_version="0" * 32)


def logits(model: nn.Module, pixels: Pixels, channels: int = 1) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        return model.double().eval()(inputs(pixels, channels)).numpy()
