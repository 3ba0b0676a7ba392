"""Likeness measures against their plain definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from primia.audit.likeness import psnr, rank_of, ssim


def plain_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Window by window (Wang et al. 2004), 7 pixels, sample variances, grey from 0 to 1."""
    found = []
    for i in range(a.shape[0] - 6):
        for j in range(a.shape[1] - 6):
            x, y = a[i : i + 7, j : j + 7].ravel(), b[i : i + 7, j : j + 7].ravel()
            cov = np.cov(x, y)
            top = (2 * x.mean() * y.mean() + 1e-4) * (2 * cov[0, 1] + 9e-4)
            bottom = (x.mean() ** 2 + y.mean() ** 2 + 1e-4) * (cov[0, 0] + cov[1, 1] + 9e-4)
            found.append(top / bottom)
    return float(np.mean(found))


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.5])
def test_similarity_is_that_of_each_window(noise: float) -> None:
    rng = np.random.default_rng(1)
    a = rng.random((15, 15))
    b = np.clip(a + noise * rng.standard_normal(a.shape), 0, 1)
    assert ssim(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(plain_ssim(a, b))


def test_psnr_is_ten_times_the_logarithm_of_one_over_the_mean_square() -> None:
    a = torch.zeros(4, 4)
    assert psnr(a, a + 0.1) == pytest.approx(20.0, abs=1e-4)
    assert psnr(a, a + 0.5) == pytest.approx(20 * math.log10(2), abs=1e-4)
    assert psnr(a, a) == 100.0


def test_a_rank_is_one_and_the_number_of_nearer_films() -> None:
    gallery = torch.arange(10.0)[:, None, None].expand(10, 3, 3)
    rebuilt = torch.full((3, 3), 4.2)
    assert [rank_of(i, rebuilt, gallery) for i in range(10)] == [9, 7, 5, 3, 1, 2, 4, 6, 8, 10]
    same = gallery.clone()
    same[7] = same[4]
    assert rank_of(4, rebuilt, same) == rank_of(7, rebuilt, same) == 1


def test_a_picture_that_tells_nothing_has_the_middle_rank_and_names_no_film() -> None:
    gallery = torch.ones(256, 3, 3)
    assert rank_of(7, torch.zeros(3, 3), gallery) == 128
    told_apart = torch.arange(256.0)[:, None, None].expand(256, 3, 3)
    for nothing in (torch.nan, torch.inf):
        assert rank_of(7, torch.full((3, 3), nothing), told_apart) == 128
