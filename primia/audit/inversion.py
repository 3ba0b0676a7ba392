"""Films from a gradient, two ways: Inverting Gradients, and Deep Leakage from Gradients.

Both look for films whose gradient is the one that was seen, the first by its direction (Geiping et
al., NeurIPS 2020, arXiv 2003.14053), the second by all of it (Zhu et al., NeurIPS 2019,
arXiv 1906.08935). The attacker knows the network, its weights and the films' labels, which can be
read off the last layer (`labels`), and how films look in general: their tone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from primia.audit.release import Gradient
from primia.learning.local import loss_of_each

RATE = 0.1  # of signed Adam, in deviations of a film
DECAY_AT = (3 / 8, 5 / 8, 7 / 8)  # of the search, each time to a tenth
SEARCH = 0.6  # of the effort; the rest may finish what was found
NEAR = 0.3  # cosine distance below which there is something to finish
SMOOTH = 1e-3  # weight of total variation beside the cosine distance
ITERATIONS = 20  # of L-BFGS in one step
_MET = 1e-8  # nothing is left to gain
_LOST = 1e3
_SCALE = 1e3  # of the distance, for L-BFGS: its first step is as long as the slope

OnStep = Callable[[int, int], None]
"""Called after each step with (steps done, steps at most)."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What the attacker has.

    seen: the sum of the gradients of as many films as there are labels.
    box: black and white as the network sees them. size: of the films in pixels.
    """

    model: nn.Module
    seen: Gradient
    labels: torch.Tensor
    size: int
    channels: int
    box: tuple[float, float]

    def target(self) -> torch.Tensor:
        """The gradient that was seen, as one vector."""
        return torch.cat([part.detach().flatten() for part in self.seen])

    def gradient(self, films: torch.Tensor) -> torch.Tensor:
        """That of films (n, 1, size, size), to be differentiated once more."""
        learning = [p for p in self.model.parameters() if p.requires_grad]
        inputs = films.expand(-1, self.channels, -1, -1)
        loss = loss_of_each(self.model(inputs), self.labels).sum()
        found = torch.autograd.grad(loss, learning, create_graph=True)
        return torch.cat([part.flatten() for part in found])

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """Films of noise, to be changed."""
        shape = (len(self.labels), 1, self.size, self.size)
        return torch.randn(shape, generator=generator).clamp_(*self.box).requires_grad_()


@dataclass(frozen=True)
class Effort:
    """steps: taken at most. seconds: after which it ends, with its decay brought forward."""

    steps: int
    seconds: float = math.inf


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """films: as the network sees them, float32 (n, size, size). distance: what was left of the
    attack's aim, from 0 where the gradient was met. steps: taken."""

    films: torch.Tensor
    distance: float
    steps: int


Method = Callable[[Problem, Effort, torch.Generator, OnStep], Rebuilt]


def by_direction(
    problem: Problem,
    effort: Effort,
    generator: torch.Generator,
    on_step: OnStep = lambda _done, _of: None,
) -> Rebuilt:
    """Inverting Gradients: signed Adam on cosine distance and total variation, pixels in a box.

    A film that nearly meets the gradient is then finished by L-BFGS on the distance alone, which
    gets to the last digit where signed steps go on trembling.
    """
    target = nn.functional.normalize(problem.target(), dim=0)
    films = problem.start(generator)
    adam = torch.optim.Adam([films], lr=RATE)
    clock = _Clock(effort, on_step)
    distance = 1.0
    while not clock.over(SEARCH):
        adam.param_groups[0]["lr"] = RATE * 0.1 ** sum(clock.way > SEARCH * at for at in DECAY_AT)
        cosine = nn.functional.normalize(problem.gradient(films), dim=0) @ target
        aim = 1 - cosine + SMOOTH * total_variation(films)
        films.grad = torch.autograd.grad(aim, films)[0].sign_()
        adam.step()
        with torch.no_grad():
            films.clamp_(*problem.box)
        distance = 1 - float(cosine.detach())
        clock.tick()
    if distance < NEAR:
        distance = _finish(problem, target, films, clock)
        with torch.no_grad():
            films.clamp_(*problem.box)
    return Rebuilt(films.detach()[:, 0], distance, clock.steps)


def _finish(problem: Problem, target: torch.Tensor, films: torch.Tensor, clock: _Clock) -> float:
    """Bring `films` on by L-BFGS, in place, until the clock is over; the distance left."""
    search = torch.optim.LBFGS(
        [films],
        lr=1.0,
        max_iter=ITERATIONS,
        history_size=ITERATIONS,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    distance = math.inf

    def left() -> torch.Tensor:
        nonlocal distance
        # 1 - cosine as half a squared distance: near 0 the cosine itself has no digits left.
        off = nn.functional.normalize(problem.gradient(films), dim=0) - target
        loss = off.square().sum() / 2
        (films.grad,) = torch.autograd.grad(loss * _SCALE, films)
        distance = min(distance, float(loss.detach()))
        clock.tick()
        return loss.detach() * _SCALE

    while not clock.over(1.0) and distance > _MET:
        search.step(left)  # type: ignore[no-untyped-call]
    return distance


class _Clock:
    """How much of an effort is spent: by steps, or by time where that is sooner."""

    def __init__(self, effort: Effort, on_step: OnStep) -> None:
        self._effort, self._on_step = effort, on_step
        self._began = time.monotonic()
        self.steps = 0

    @property
    def way(self) -> float:
        """From 0 to 1."""
        seconds = time.monotonic() - self._began
        return max(self.steps / self._effort.steps, seconds / self._effort.seconds)

    def over(self, share: float) -> bool:
        """Whether that share of the effort is spent; never before the first step."""
        return self.steps > 0 and self.way >= share

    def tick(self) -> None:
        self.steps += 1
        self._on_step(min(self.steps, self._effort.steps), self._effort.steps)


def by_value(
    problem: Problem,
    effort: Effort,
    generator: torch.Generator,
    on_step: OnStep = lambda _done, _of: None,
) -> Rebuilt:
    """Deep Leakage from Gradients: L-BFGS on the squared distance, for small smooth networks.

    A step is 20 iterations. A search that runs away begins again elsewhere; the best is kept.
    """
    target = problem.target()
    length = target.square().sum().clamp_min(1e-30)

    def left(films: torch.Tensor) -> torch.Tensor:
        loss = (problem.gradient(films) - target).square().sum() / length
        (films.grad,) = torch.autograd.grad(loss, films)
        return loss.detach()

    films = problem.start(generator)
    best, kept = math.inf, films.detach().clone()
    search = _search(films)
    clock = _Clock(effort, on_step)
    while not clock.over(1.0) and best > _MET:
        search.step(lambda: left(films))  # type: ignore[no-untyped-call]  # noqa: B023
        reached = float(left(films))
        if reached < best:
            best, kept = reached, films.detach().clone()
        elif not reached < _LOST:  # NaN, too
            films = problem.start(generator)
            search = _search(films)
        clock.tick()
    return Rebuilt(kept[:, 0].clamp(*problem.box), best, clock.steps)


def _search(films: torch.Tensor) -> torch.optim.LBFGS:
    return torch.optim.LBFGS([films], lr=1.0, max_iter=ITERATIONS, history_size=100)


def total_variation(films: torch.Tensor) -> torch.Tensor:
    """Mean step between neighbouring pixels of films (n, 1, size, size), across and down."""
    down = (films[:, :, 1:] - films[:, :, :-1]).abs().mean()
    return down + (films[..., 1:] - films[..., :-1]).abs().mean()
