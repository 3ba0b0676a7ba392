"""Canaries: made-up patients whose gradient is one direction that no other patient has.

A film shows its canary's number in bright and dark squares, wide enough that shifts and turns of
the plan's augmentation leave it legible. The network reads the number and looks up the canary's
row in several layers; the loss pulls at that row alone. So gradients of different canaries are
orthogonal, each spread evenly over all layers and longer than the clip norm, by little or by much,
and everything between a film and the sum (views, units, clipping, noise) is the product's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from primia.config.plan import ModelTerms, StudyPlan
from primia.imaging.dataset import Cohort, Films
from primia.learning.models import FloatVector

LAYERS = 4  # clipping each for itself lets √4 of the bound through
WIDTH = 2  # weights of a canary in a layer
SIZE = 28  # pixels
_SIDE = 4  # squares in a row; one is always bright, one always dark
_BITS = _SIDE**2 - 2
MOST = 2**_BITS
_CENTRES = (2 * np.arange(_SIDE) + 1) * SIZE // (2 * _SIDE)

Ids = npt.NDArray[np.int64]


def draw(ids: Ids) -> npt.NDArray[np.uint8]:
    """A film (n, SIZE, SIZE) for each number, 0 to MOST - 1."""
    bits = (ids[:, None] >> np.arange(_BITS)) & 1
    squares = np.concatenate([bits, np.tile([1, 0], (ids.size, 1))], axis=1)
    grid = squares.reshape(-1, _SIDE, _SIDE).astype(np.uint8) * np.uint8(255)
    edge = SIZE // _SIDE
    return grid.repeat(edge, axis=1).repeat(edge, axis=2)


class CanaryNetwork(nn.Module):
    """Takes a row apart by its film's number. Its outputs are level, whatever the weights are, so
    that a canary pulls as hard in the last step as in the first."""

    _powers: torch.Tensor
    _pull: torch.Tensor

    def __init__(self, ids: int, classes: int, pull: torch.Tensor) -> None:
        super().__init__()
        if not 1 <= ids <= MOST:
            raise ValueError(f"canaries: {ids}, need 1 to {MOST}")
        self._ids, self._classes = ids, classes
        self.rows = nn.ModuleList(nn.Embedding(ids, WIDTH) for _ in range(LAYERS))
        self.register_buffer("_pull", pull, persistent=False)
        self.register_buffer("_powers", 2 ** torch.arange(_BITS), persistent=False)

    def forward(self, films: torch.Tensor) -> torch.Tensor:
        number = self._read(films)
        found = torch.stack([rows(number).sum(1) for rows in self.rows]).sum(0)
        pulled = found * self._pull[number]
        logits = pulled.new_zeros(len(films), self._classes)
        return torch.cat([(pulled - pulled.detach())[:, None], logits[:, 1:]], dim=1)

    def _read(self, films: torch.Tensor) -> torch.Tensor:
        centres = torch.from_numpy(_CENTRES).to(films.device)
        squares = films[:, 0][:, centres][:, :, centres].flatten(1)
        middle = (squares.amax(1, keepdim=True) + squares.amin(1, keepdim=True)) / 2
        bits = (squares > middle)[:, :_BITS].long()
        return (bits * self._powers).sum(1) % self._ids


@dataclass(frozen=True)
class Canaries:
    """So many directions for a plan's terms, and what builds and reads them.

    clip_norm, automatic: clipping of the plan; most_films: of a patient in one step.
    The last canary alone is shorter than the clip norm.
    """

    ids: int
    clip_norm: float
    most_films: int
    automatic: bool = False

    @classmethod
    def of(cls, plan: StudyPlan, ids: int) -> Self:
        """For a plan with privacy."""
        assert plan.privacy != "none"
        automatic = plan.privacy.clipping == "automatic"
        return cls(ids, plan.privacy.clip_norm, plan.training.max_films_per_patient, automatic)

    @property
    def parameters(self) -> int:
        return LAYERS * self.ids * WIDTH

    def network(self, terms: ModelTerms) -> CanaryNetwork:
        """Stands in for the plan's network; `terms` is what that would be built from."""
        classes = len(terms.classes)
        # Cross-entropy over level outputs pulls at one of them with 1 / classes.
        pull = self.lengths() * classes / (LAYERS * WIDTH) ** 0.5
        return CanaryNetwork(self.ids, classes, pull)

    def lengths(self) -> torch.Tensor:
        """Norm of each canary's gradient, (ids,): from just above the clip norm to a
        thousand times that, and far above the summand 0.01 of automatic clipping."""
        times = 1.4 * 10.0 ** (3 * (torch.arange(self.ids) % 7) / 6)
        found = self.clip_norm * times + 10.0 * self.automatic
        found[-1] = self.clip_norm / 10
        return found

    def start(self) -> FloatVector:
        """Weights to start from, all zero."""
        return np.zeros(self.parameters, np.float32)

    def films_of(self, ids: Ids) -> Ids:
        """How many films a canary has: 1 to 3, as far as the plan takes so many."""
        return 1 + ids % min(3, self.most_films)

    def cohort(self, ids: Ids) -> Cohort:
        """A patient for each of `ids`, (patients,); a number may stand there several times."""
        films = self.films_of(ids)
        each = np.repeat(ids, films)
        who = np.repeat(np.arange(ids.size, dtype=np.int64), films)
        train = Films(draw(each), np.ones(each.size, np.int64), who)
        nobody = np.zeros(0, np.int64)
        return Cohort(train, Films(draw(nobody), nobody, nobody), 0, ())

    def scores(self, released: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """How far `released` (..., parameters) goes each canary's way, (..., ids)."""
        along = self._by_id(released).sum((-3, -1))
        return np.asarray(along / (LAYERS * WIDTH) ** 0.5, np.float64)

    def noise(self, released: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """What is left of `released` beside all canaries' ways, (..., LAYERS, ids): noise alone,
        as independent samples with the deviation of one coordinate."""
        rows = self._by_id(released)
        return np.asarray((rows[..., 0] - rows[..., 1]) / 2**0.5, np.float64)

    def nobody(self, released: npt.NDArray[np.floating], first: int) -> npt.NDArray[np.float64]:
        """Every coordinate of the canaries from `first` on, none of whom took part."""
        return self._by_id(released)[..., first:, :].ravel()

    def _by_id(self, released: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        shape = (*released.shape[:-1], LAYERS, self.ids, WIDTH)
        return released.astype(np.float64).reshape(shape)
