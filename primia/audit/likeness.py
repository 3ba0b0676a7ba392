"""How like two films are: signal to noise, structural similarity, and the place among many."""

from __future__ import annotations

import torch
from torch.nn import functional

_WINDOW = 7  # pixels, of SSIM
_C1, _C2 = 0.01**2, 0.03**2  # for grey from 0 to 1


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """Peak signal to noise in decibels, of grey films from 0 to 1; 100 at most."""
    error = float((one - other).double().square().mean())
    return 100.0 if error < 1e-10 else -10 * torch.log10(torch.tensor(error)).item()


def ssim(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean structural similarity of grey films (size, size) from 0 to 1 (Wang et al., IEEE TIP
    2004), over uniform windows of 7 pixels and with the sample's own variance."""
    pair = torch.stack([one, other]).double()[:, None]
    count = _WINDOW**2

    def mean(values: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(values, _WINDOW, stride=1)

    a, b = mean(pair)
    unbiased = count / (count - 1)
    squares = unbiased * (mean(pair.square()) - mean(pair).square())
    cross = unbiased * (mean((pair[0] * pair[1])[None])[0] - a * b)
    top = (2 * a * b + _C1) * (2 * cross + _C2)
    bottom = (a**2 + b**2 + _C1) * (squares[0] + squares[1] + _C2)
    return float((top / bottom).mean())


def rank_of(true: int, rebuilt: torch.Tensor, gallery: torch.Tensor) -> int:
    """The place of the film `true` when a gallery (n, size, size) is sorted by its distance to
    `rebuilt` (size, size): 1 when no other is as near. Among equals it has the middle place, so
    that a picture that tells nothing, or is not a number, gets no good one."""
    far = (gallery - rebuilt).double().square().sum((1, 2)).nan_to_num(torch.inf, torch.inf)
    nearer, equal = int((far < far[true]).sum()), int((far == far[true]).sum())
    return 1 + nearer + (equal - 1) // 2
