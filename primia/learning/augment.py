"""Several views of each film, for augmentation multiplicity.

The gradients of all views of a film are averaged before clipping (De et al., arXiv 2204.13650),
so more views cost no privacy. There are no flips: the heart is on the left.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from primia.errors import ConfigError

_MAX_SHIFT = 0.06
"""Of the side, in each direction."""
_MAX_ROTATION = math.radians(7)
_MAX_GAMMA = 1.25
"""Brightness and contrast: grey to the power of 1/1.25 .. 1.25."""


def augment(films: Tensor, copies: int, generator: torch.Generator) -> Tensor:
    """`copies` views of each film, side by side; the first of each is the film itself.

    films: uint8 or float32 (n, h, w), any n, any device.
    copies: views a film, at least 1.
    generator: not privacy randomness; a fixed seed gives fixed views.

    Returns (n * copies, h, w) in the films' dtype and on their device: shifted by up to 6 % of
    the side, turned by up to 7 degrees, edges repeated where the film ends, and exposed
    differently. Every grey value stays between the film's smallest and largest (rounding apart),
    so uint8 never wraps around.
    Raises ConfigError for copies below 1.
    """
    if copies < 1:
        raise ConfigError(f"augmentation copies {copies}: need at least 1, the film itself")
    n, h, w = films.shape
    others = films.to(torch.float32).repeat_interleave(copies - 1, dim=0)
    if len(others) == 0:  # one view, or no films: an empty Poisson batch
        return films.clone()
    draws = torch.rand(len(others), 4, generator=generator, device=generator.device)
    signed = (2 * draws - 1).to(films.device)  # uniform in -1 .. 1
    views = _exposed(_moved(others, signed[:, :3]), signed[:, 3])
    if not films.is_floating_point():
        views = views.round()
    views = views.to(films.dtype).view(n, copies - 1, h, w)
    return torch.cat([films[:, None], views], dim=1).flatten(0, 1)


def _moved(films: Tensor, signed: Tensor) -> Tensor:
    """Turn and shift each film by its row of `signed` (angle, right, down), bilinear."""
    _, h, w = films.shape
    angle, right, down = (signed * films.new_tensor([_MAX_ROTATION, _MAX_SHIFT, _MAX_SHIFT])).T
    cos, sin = angle.cos(), angle.sin()
    # grid_sample measures each axis in half sides: h / w keeps a turn a turn, 2 a shift a shift.
    rows = [
        torch.stack([cos, -sin * (h / w), 2 * right], dim=1),
        torch.stack([sin * (w / h), cos, 2 * down], dim=1),
    ]
    grid = functional.affine_grid(torch.stack(rows, dim=1), [len(films), 1, h, w], False)
    moved = functional.grid_sample(
        films[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return moved[:, 0]


def _exposed(films: Tensor, signed: Tensor) -> Tensor:
    """A gamma curve for each film, between its own darkest and brightest value.

    A curve and not a factor and an offset: the network's input has each film's mean and
    deviation taken out, and these would go with them.
    """
    dark, bright = films.amin((1, 2), keepdim=True), films.amax((1, 2), keepdim=True)
    span = bright - dark
    gamma = torch.exp(signed * math.log(_MAX_GAMMA))[:, None, None]
    unit = (films - dark) / torch.where(span > 0, span, 1.0)  # a blank film stays blank
    return dark + span * unit.pow(gamma)
