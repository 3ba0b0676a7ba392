"""What one backward pass leaves behind: each unit's gradient, or its norm and how to sum it.

Book-keeping (Bu et al., ICML 2023, arXiv 2210.00038): the backward pass goes through the model
once and computes no weight gradients of the batch. Each layer enters either its per-unit
gradients, or their squared norms together with a function that makes the weighted sum once the
clipping factors are known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from primia.learning.engine.rows import Rows

WeightedSum = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""(factor of each row, rows to leave out or None) -> the parameter's weighted gradient sum."""


@dataclass(frozen=True, eq=False)
class _Deferred:
    parameter: nn.Parameter
    group: int
    squared: torch.Tensor  # (units,)
    weighted_sum: WeightedSum


@dataclass(eq=False)
class _PerUnit:
    group: int
    gradients: torch.Tensor  # (units, *parameter.shape)


class Book:
    """Entries of one micro-batch.

    rows: which unit each row belongs to.
    groups: parameters whose norms are clipped apart, one group a layer; flat clipping adds
        them up.
    """

    def __init__(self, rows: Rows, groups: int) -> None:
        self.rows = rows
        self.calls: Counter[int] = Counter()  # forward calls of each layer, by its group
        self._groups = groups
        self._deferred: list[_Deferred] = []
        self._per_unit: dict[nn.Parameter, _PerUnit] = {}

    def enter_gradients(self, group: int, parameter: nn.Parameter, per_row: torch.Tensor) -> None:
        """Take the gradient of each row, (rows, *parameter.shape); calls of one layer add up."""
        gradients = self.rows.fold(per_row)
        before = self._per_unit.get(parameter)
        if before is None:
            self._per_unit[parameter] = _PerUnit(group, gradients)
        else:
            before.gradients = before.gradients + gradients  # autograd may still hold the first

    def enter_norms(
        self, group: int, parameter: nn.Parameter, squared: torch.Tensor, later: WeightedSum
    ) -> None:
        """Take each unit's squared norm, (units,), and how to make the sum later."""
        self._deferred.append(_Deferred(parameter, group, squared, later))

    @property
    def entered(self) -> set[nn.Parameter]:
        """The parameters that have an entry."""
        return {entry.parameter for entry in self._deferred} | self._per_unit.keys()

    def squared_norms(self) -> torch.Tensor:
        """The squared gradient norm of each unit in each group: (groups, units), float32 or 64."""
        squared: list[torch.Tensor | None] = [None] * self._groups
        for group, part in self._norm_parts():
            before = squared[group]
            squared[group] = part if before is None else before + part
        known = next(part for part in squared if part is not None)
        none = torch.zeros_like(known)
        return torch.stack([none if part is None else part for part in squared])

    def _norm_parts(self) -> Sequence[tuple[int, torch.Tensor]]:
        parts = [(e.group, e.squared) for e in self._deferred]
        for entry in self._per_unit.values():
            flat = entry.gradients.flatten(1)
            # Added up in float32 the norm of ten million numbers is short by 2e-4.
            norms = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64)
            parts.append((entry.group, norms.square().to(flat.dtype)))
        return parts

    def weighted_sums(
        self, factors: torch.Tensor, dropped: torch.Tensor | None
    ) -> dict[nn.Parameter, torch.Tensor]:
        """Sum over units of factor times gradient, for each entered parameter.

        factors: (groups, units). dropped: bool (units,), units that must not reach any sum
            because they are not finite (0 times NaN is NaN), or None. Empties the book: each
            layer's memory is free as soon as its sum is made.
        """
        left_out = None if dropped is None else self.rows.spread(dropped)
        sums: dict[nn.Parameter, torch.Tensor] = {}
        while self._deferred:
            entry = self._deferred.pop()
            row_factors = self.rows.spread(factors[entry.group])
            sums[entry.parameter] = entry.weighted_sum(row_factors, left_out)
        while self._per_unit:
            parameter, per_unit = self._per_unit.popitem()
            gradients = per_unit.gradients
            if dropped is not None:
                gradients[dropped] = 0.0
            total = factors[per_unit.group].to(gradients.dtype) @ gradients.flatten(1)
            sums[parameter] = total.view_as(parameter)
        return sums
