"""What one backward pass leaves behind: each unit's gradient, or its norm and how to sum it.

Book-keeping (Bu et al., ICML 2023, arXiv 2210.00038): the backward pass goes through the model
once and computes no weight gradients of the batch. Each layer enters either its per-unit
gradients, or their squared norms together with a function that makes the weighted sum once the
clipping factors are known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from primia.errors import StateError
from primia.learning.engine.rows import Rows

WeightedSum = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""(factors, rows) -> the gradient summed over these rows, each times its factor; rows are indices,
int64, or None for all of them in their order."""


@dataclass(frozen=True, eq=False)
class _Deferred:
    parameter: nn.Parameter
    group: int
    squared: torch.Tensor  # (units,)
    weighted_sum: WeightedSum
    held: dict[int, torch.Tensor]  # gradients of the units whose norm was in doubt
    versions: list[tuple[torch.Tensor, int]]

    def sum(self, rows: Rows, factors: torch.Tensor, dropped: torch.Tensor | None) -> torch.Tensor:
        """As `Book.weighted_sums`, for this parameter; factors (units,)."""
        if any(tensor._version != version for tensor, version in self.versions):
            raise StateError(
                "a layer's input or output gradient was changed in place after its norm was taken "
                "(by a hook?), so the norm bounds nothing; return a new tensor instead"
            )
        per_row, left_out = rows.spread(factors), dropped
        if self.held:
            left_out = torch.zeros_like(factors, dtype=torch.bool) if dropped is None else dropped
            left_out = left_out.clone()
            left_out[list(self.held)] = True
        if left_out is None:
            total = self.weighted_sum(per_row, None)
        else:
            enter = (~rows.spread(left_out)).nonzero().squeeze(1)
            total = self.weighted_sum(per_row[enter], enter)
        for unit, gradient in self.held.items():
            if dropped is None or not dropped[unit]:
                total = total + factors[unit].to(gradient.dtype) * gradient
        return total


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
        self,
        group: int,
        parameter: nn.Parameter,
        norms: tuple[torch.Tensor, torch.Tensor],
        later: WeightedSum,
        used: Sequence[torch.Tensor],
    ) -> None:
        """Take each unit's squared norm and whether to doubt it, (units,), and how to sum later.

        used: the tensors that `later` will read; they must not change until then.
        """
        squared, doubtful = norms
        held: dict[int, torch.Tensor] = {}
        for unit in doubtful.nonzero().flatten().tolist():
            mine = (self.rows.unit == unit).nonzero().flatten()
            held[unit] = later(squared.new_ones(mine.numel()), mine)
            squared[unit] = _squared_norm(held[unit])
        versions = [(tensor, tensor._version) for tensor in used]
        self._deferred.append(_Deferred(parameter, group, squared, later, held, versions))

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
            parts.append((entry.group, _squared_norms_of_rows(flat)))
        return parts

    def weighted_sums(
        self, factors: torch.Tensor, dropped: torch.Tensor | None
    ) -> Iterator[tuple[nn.Parameter, torch.Tensor]]:
        """Sum over units of factor times gradient, for each entered parameter, one by one.

        factors: (groups, units). dropped: bool (units,), units that must not reach any sum
            because they are not finite (0 times NaN is NaN), or None. Empties the book: each
            layer's memory is free as soon as its sum is made.
        """
        while self._deferred:
            entry = self._deferred.pop()
            yield entry.parameter, entry.sum(self.rows, factors[entry.group], dropped)
        while self._per_unit:
            parameter, per_unit = self._per_unit.popitem()
            gradients = per_unit.gradients.flatten(1)
            if dropped is not None:
                gradients[dropped] = 0.0
            total = factors[per_unit.group].to(gradients.dtype) @ gradients
            yield parameter, total.view(parameter.shape)


_RUN = 1024


def _squared_norms_of_rows(flat: torch.Tensor) -> torch.Tensor:
    """Of (n, weights), by runs that are added up in float64.

    Added up in float32 the norm of ten million numbers comes out short by 2e-4; added up in
    float64 throughout, it takes ten times as long.
    """
    whole = flat.shape[1] // _RUN * _RUN
    cut = flat[:, :whole].reshape(len(flat), whole // _RUN, _RUN)
    runs: torch.Tensor = torch.linalg.vector_norm(cut, dim=2)
    rest: torch.Tensor = torch.linalg.vector_norm(flat[:, whole:], dim=1)
    return (runs.double().square().sum(1) + rest.double().square()).to(flat.dtype)


def _squared_norm(gradient: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(gradient, dtype=torch.float64)
    return norm.square()
