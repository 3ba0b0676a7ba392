"""Cut a logical batch into physical ones of a few fixed sizes, without cutting a unit in two.

How many rows Poisson sampling draws differs from step to step; what the processor sees should
not (each new size costs 3 to 14 % a row in set-up), nor should memory depend on luck. Nothing is
dropped to fit: the batch that was drawn is the batch that is summed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

_MULTIPLE = 8
"""Sizes below the full one are multiples of this, or of an eighth of the full one if less."""


@dataclass(frozen=True, eq=False)
class Physical:
    """One physical batch.

    rows: int64 (size,), indices into the logical batch; padding repeats row 0.
    unit: int64 (size,), numbered from 0 in this batch; each padding row is a unit of its own,
        numbered from `real` on, and must get factor 0.
    weight: float64 (size,), 1 over the rows of the unit, 0 for padding: a unit's gradient is the
        mean over its rows.
    real: units that are not padding.
    """

    rows: torch.Tensor
    unit: torch.Tensor
    weight: torch.Tensor
    real: int

    @property
    def units(self) -> int:
        """Units, padding included."""
        return int(self.unit[-1]) + 1


def physical_batches(unit: torch.Tensor, size: int) -> Iterator[Physical]:
    """Cut rows with these units, int64 (rows,), any numbers, into batches of `size` at most.

    A unit with more rows than `size` gets a physical batch that is as large as it needs.
    """
    if unit.numel() == 0:
        return
    _, inverse, counts = torch.unique(unit.cpu(), return_inverse=True, return_counts=True)
    order = torch.argsort(inverse, stable=True)
    ends = counts.cumsum(0).tolist()
    step = max(1, min(_MULTIPLE, size // _MULTIPLE))
    start, first, previous = 0, 0, 0  # row, unit, end of the unit before
    for number, end in enumerate([*ends, None]):
        if end is not None and (end - start <= size or previous == start):
            previous = end
            continue
        rows = order[start:previous]
        padded = max(rows.numel(), min(size, -(-rows.numel() // step) * step))
        yield _padded(rows, inverse[rows] - first, counts[first:number], padded)
        if end is not None:
            start, first, previous = previous, number, end


def _padded(rows: torch.Tensor, unit: torch.Tensor, counts: torch.Tensor, size: int) -> Physical:
    missing = size - rows.numel()
    real = counts.numel()
    return Physical(
        rows=torch.cat([rows, rows.new_zeros(missing)]),
        unit=torch.cat([unit, torch.arange(real, real + missing)]),
        weight=torch.cat([1.0 / counts[unit].double(), torch.zeros(missing, dtype=torch.float64)]),
        real=real,
    )
