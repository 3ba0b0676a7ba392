"""Which unit of privacy each row of a micro-batch belongs to.

A unit is whatever one clipping bound covers: a patient with several films, one film with several
augmented views, or, where nothing is said, each row by itself. Norms and gradients are summed
over the rows of a unit before clipping, so augmentation multiplicity (De et al., arXiv
2204.13650) and patient-level privacy are one mechanism.
"""

from __future__ import annotations

import torch


class Rows:
    """The rows of one micro-batch and their units.

    unit: int64 (rows,), numbered 0..units-1; rows of one unit need not lie side by side.
    """

    def __init__(self, unit: torch.Tensor, units: int) -> None:
        self.unit = unit
        self.units = units
        self.single = bool(
            units == unit.numel() and (unit == torch.arange(units, device=unit.device)).all()
        )

        self.pairs_per_row = 1.0
        if not self.single and unit.numel():
            sizes = torch.bincount(unit, minlength=units)
            self.pairs_per_row = float((sizes * (sizes + 1)).sum()) / (2 * unit.numel())

    def __len__(self) -> int:
        return self.unit.numel()

    def fold(self, per_row: torch.Tensor) -> torch.Tensor:
        """Sum what belongs to one unit: (rows, ...) to (units, ...)."""
        if self.single:
            return per_row
        return per_row.new_zeros((self.units, *per_row.shape[1:])).index_add_(0, self.unit, per_row)

    def spread(self, per_unit: torch.Tensor) -> torch.Tensor:
        """Give each row its unit's value: (units,) to (rows,)."""
        return per_unit if self.single else per_unit[self.unit]

    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All ordered pairs of rows of the same unit, a row with itself included; int64 (pairs,).

        The squared norm of a sum of gradients is the sum of their inner products over all pairs;
        the pair (s, r) is left out for r < s, so those inner products count twice.
        """
        order = torch.argsort(self.unit, stable=True)
        counts = torch.bincount(self.unit, minlength=self.units)
        left, right = [order], [order]
        for offset in range(1, int(counts.max()) if len(self) else 0):
            same = self.unit[order[offset:]] == self.unit[order[:-offset]]
            left.append(order[:-offset][same])
            right.append(order[offset:][same])
        return torch.cat(left), torch.cat(right)
