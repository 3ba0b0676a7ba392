"""What is measured: networks, image sizes, batch sizes, and the bars that primia set itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from primia.learning.models import build

Batch = tuple[torch.Tensor, torch.Tensor]
"""Inputs (n, 1, size, size) float32 and targets, in one physical batch."""
Losses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs, targets) -> one loss for each image, (n,)."""


def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """outputs: (n, classes); targets: int64 (n,)."""
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def pixel_cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary, averaged over the pixels of an image; both float32 (n, 1, size, size)."""
    losses = nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    return losses.flatten(1).mean(1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row group of the table. The bars are upper bounds on private over plain."""

    name: str
    network: Callable[[], nn.Module]
    losses: Losses = cross_entropy
    size: int  # px
    physical: int  # images that go through the network at once
    logical: int  # images of one step
    time_bar: float
    memory_bar: float

    def batches(self, *, images: int, device: str, seed: int = 0) -> list[Batch]:
        """`images` made-up images, divided as the case divides its logical batch."""
        draw = torch.Generator().manual_seed(seed)
        inputs = torch.randn(images, 1, self.size, self.size, generator=draw)
        if self.losses is cross_entropy:
            targets = torch.randint(0, 2, (images,), generator=draw)
        else:
            targets = (torch.rand(inputs.shape, generator=draw) < 0.5).float()
        parts = self.logical // self.physical
        pairs = zip(inputs.chunk(parts), targets.chunk(parts), strict=True)
        return [(x.to(device), y.to(device)) for x, y in pairs]


def resnet18() -> nn.Module:
    """primia's ResNet-18 with GroupNorm: one channel, two classes, 11.2 M weights, any size."""
    return build("resnet18-gn", input_size=224, channels=1, classes=2)


def small_cnn() -> nn.Module:
    """Three 3x3 convolutions, 93 k weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 2)),
    )


class UNet(nn.Module):
    """A small U-Net (Ronneberger et al., MICCAI 2015): three halvings, widths 32 to 256, 1.9 M
    weights; GroupNorm, in-place ReLU, transposed convolutions up, one logit a pixel."""

    def __init__(self, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(_double(a, b) for a, b in pairwise([1, *widths]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs)
        self.merge = nn.ModuleList(_double(2 * a, a) for a, _ in pairs)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips: list[torch.Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for up, merge in zip(reversed(self.up), reversed(self.merge), strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))
        return self.head(x)


def _double(before: int, after: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, channels in enumerate((before, after)):
        layers[f"conv{i}"] = nn.Conv2d(channels, after, 3, padding=1, bias=False)
        layers[f"norm{i}"] = nn.GroupNorm(8, after)
        layers[f"relu{i}"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def unet() -> nn.Module:
    torch.manual_seed(0)
    return UNet()


CASES = {
    case.name: case
    for case in (
        Case(
            name="resnet18-224-b16",
            network=resnet18,
            size=224,
            physical=16,
            logical=16,
            time_bar=1.15,
            memory_bar=1.15,
        ),
        Case(
            name="resnet18-28-b256",
            network=resnet18,
            size=28,
            physical=256,
            logical=256,
            time_bar=1.25,
            memory_bar=1.10,
        ),
        Case(
            name="resnet18-28-p64-l256",
            network=resnet18,
            size=28,
            physical=64,
            logical=256,
            time_bar=1.30,
            memory_bar=1.15,
        ),
        Case(
            name="cnn-28-b128",
            network=small_cnn,
            size=28,
            physical=128,
            logical=128,
            time_bar=1.30,
            memory_bar=1.20,
        ),
        Case(
            name="unet-64-b16",
            network=unet,
            losses=pixel_cross_entropy,
            size=64,
            physical=16,
            logical=16,
            time_bar=1.30,
            memory_bar=1.20,
        ),
    )
}
