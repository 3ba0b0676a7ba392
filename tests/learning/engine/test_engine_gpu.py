"""The engine on a GPU against the same engine on the CPU in float64, which the loop vouches for."""

import pytest
import torch
from torch import nn

from primia.learning.clipped import PerUnitClipping
from primia.learning.clipping import Flat
from primia.learning.models import build

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def cross_entropy(outputs, labels):
    return nn.functional.cross_entropy(outputs, labels, reduction="none")


def clipped_sum(model, device, dtype, *, autocast=False, channels_last=False):
    generator = torch.Generator().manual_seed(0)
    size = 28
    x = torch.randn(12, 1, size, size, generator=generator).to(device, dtype)
    labels = torch.randint(0, 2, (12,), generator=generator).to(device)
    unit = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7])
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    clipped = PerUnitClipping(model.to(device, dtype), physical_batch=8)
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        found = clipped.sum(Flat(0.5), cross_entropy, x, labels, unit).gradients
    return torch.cat([g.flatten() for g in found]).double().cpu()


@pytest.mark.parametrize("name", ["small-cnn", "resnet18-gn"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_gpu_sums_what_the_cpu_sums(name, channels_last):
    model = build(name, input_size=28, channels=1, classes=2, seed=1)
    nn.init.normal_(list(model.modules())[-1].weight)
    exact = clipped_sum(model, "cpu", torch.float64)
    for dtype, error in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        found = clipped_sum(model, "cuda", dtype, channels_last=channels_last)
        assert float((found - exact).norm() / exact.norm()) < error


def test_under_bfloat16_autocast_a_gpu_is_near_and_within_the_bound():
    model = build("small-cnn", input_size=28, channels=1, classes=2, seed=1)
    nn.init.normal_(model[-1].weight)
    exact = clipped_sum(model, "cpu", torch.float64)
    found = clipped_sum(model, "cuda", torch.float32, autocast=True)
    assert float((found - exact).norm() / exact.norm()) < 0.1
    assert float(found.norm()) <= 8 * 0.5
