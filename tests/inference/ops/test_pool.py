from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from primia.inference.operations import AvgPool2d, MaxPool2d
from primia.inference.ops.pool import average_pool, deal_max_pool, max_pool
from primia.inference.ops.rectify import Profile, comparison
from tests.inference.pair import run_op, total


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 2, 2)]
)
@pytest.mark.parametrize("scale", [16, 32])
@pytest.mark.parametrize("profile", ["lan", "wan"])
def test_maxima_are_those_of_torch(
    kernel: int, stride: int, padding: int, scale: int, profile: Profile
) -> None:
    op = MaxPool2d(kernel, stride, padding)
    bound = 4.0
    real = np.random.default_rng(3).uniform(-bound, bound, (2, 3, 9, 11))
    real[0] = -np.abs(real[0])  # what lies in the padding must not win
    values = np.rint(real * 2.0**scale).astype(np.int64)
    how = comparison(2 * bound, scale, profile)
    lowest = -int(bound * 2.0**scale)
    found = total(
        run_op(
            lambda d: deal_max_pool(d, "t", op, values.shape, scale - 16, how),
            lambda party, x: max_pool(party, "t", op, x, lowest, scale - 16, how),
            values,
        )
    )
    wanted = functional.max_pool2d(torch.from_numpy(real), kernel, stride, padding).numpy()
    assert found.shape == wanted.shape
    assert np.abs(found * 2.0**-scale - wanted).max() < (2.0**-11 if profile == "lan" else 2.0**-8)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (7, 1, 0)])
def test_averages_count_the_padding_as_torch_does(kernel: int, stride: int, padding: int) -> None:
    values = np.random.default_rng(4).integers(-1000, 1000, (2, 3, 8, 9))
    op = AvgPool2d(kernel, stride, padding)
    found = average_pool(op, values.view(np.uint64), 3).view(np.int64)
    wanted = functional.avg_pool2d(torch.from_numpy(values).double(), kernel, stride, padding)
    assert np.allclose(found, 3 * kernel**2 * wanted.numpy())
