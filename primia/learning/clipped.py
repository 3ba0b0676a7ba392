"""The clipped sum of a logical batch: one backward pass, each unit's gradient bounded.

The only place where private training touches films.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from primia.errors import ConfigError
from primia.learning.batches import Physical, physical_batches
from primia.learning.clipping import Clipping
from primia.learning.engine import Attached, Book, Choice, Method, Rows, Rule
from primia.learning.engine.precision import exact_products
from primia.learning.memory import rows_that_fit
from primia.learning.probe import refuse_mixed_rows

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs (rows, ...), targets (rows, ...)) -> the loss of each row, (rows,).

Each from its own row alone: a loss divided by a count over the batch has this shape too, and the
bound would not hold. That cannot be seen here."""


FEW = 8
"""Units in a batch under which nothing is said of one that dominates."""

Prepare = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class ClippedSum:
    """What one logical batch gave. Nothing of it may leave without noise.

    gradients: one tensor for each trainable parameter, in the order of `model.parameters()`.
    units: how many units were in the batch; within: how many needed no clipping;
    dropped: how many had a gradient that is not finite, and count as zero.
    longest: the largest norm of one unit's clipped gradient; together: the norms of all, added.
    """

    gradients: list[torch.Tensor]
    units: int
    within: int
    dropped: int
    longest: float = 0.0
    together: float = 0.0

    @property
    def is_dominated(self) -> bool:
        """Whether one unit's clipped gradient is longer than the sum of the others can be.

        Then it is longer than that sum, whose norm is at most the norms added: the ratio of the two
        (D-SNR, Garov et al., ICLR 2024) is above one. Never of fewer than `FEW` units, of which one
        may outweigh the rest by chance.
        """
        return self.units >= FEW and self.longest > self.together - self.longest


class PerUnitClipping:
    """Clipped gradient sums of one model.

    physical_batch: rows that go through the model together, which bounds memory; None: as many
        as fit, found with the first batch (`rows_that_fit`).
    prepare: from rows as stored to what the model takes, on its device; done for each physical
        batch, so that neither the device nor the larger form holds the whole logical batch.
    rules, methods: as for `Attached`; the method of each layer is chosen from shapes otherwise.

    Raises ConfigError for a model that cannot be trained privately, naming the module.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        physical_batch: int | None = None,
        prepare: Prepare | None = None,
        rules: Mapping[type[nn.Module], Rule] | None = None,
        methods: Mapping[str, Method] | None = None,
    ) -> None:
        if physical_batch is not None and physical_batch < 1:
            raise ConfigError(f"physical_batch {physical_batch}: must be at least 1")
        self.physical_batch = physical_batch
        self._probed = False
        self._prepare: Prepare = prepare or (lambda rows: rows)
        self._attached = Attached(model, rules=rules, methods=methods)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, in the model's order."""
        return self._attached.parameters

    def explain(self) -> list[Choice]:
        """How each layer's norms were found in the last pass; empty before the first."""
        choices = (layer.choice for layer in self._attached.layers)
        return [choice for choice in choices if choice is not None]

    @torch.no_grad()
    def sum(
        self,
        clipping: Clipping,
        loss: Loss,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        unit: torch.Tensor | None = None,
    ) -> ClippedSum:
        """Sum over units of the clipped mean gradient of each unit's rows.

        inputs, targets: (rows, ...); unit: int64 (rows,), any numbers, by default a unit a row.

        Adding or removing one unit changes the sum by at most `clipping.clip_norm` in L2 norm.
        A unit whose gradient is not finite counts as zero, which keeps that bound. Rows go
        through the model in physical batches; no rows at all give zeros.

        Raises StateError when the model was changed since; ConfigError where rows are mixed, for a
        loss that does not give one value a row, and for parameters used past their module or not
        at all.
        """
        if unit is None:
            unit = torch.arange(len(inputs))
        if not len(inputs) == len(targets) == unit.numel():
            raise ConfigError(
                f"{len(inputs)} inputs, {len(targets)} targets, {unit.numel()} units: "
                "give one of each a row"
            )
        self._attached.refuse_if_changed()
        if len(inputs) and not self._probed:
            self._probe(inputs)
        totals: dict[nn.Parameter, torch.Tensor] = {}
        units = within = dropped = 0
        longest = together = 0.0
        for part in physical_batches(unit, self.physical_batch or 1):
            rows = part.rows.to(inputs.device)
            prepared = self._prepare(inputs[rows])
            book = self._book(loss, prepared, targets[rows].to(prepared.device), part)
            with exact_products():
                squared = book.squared_norms()
                finite = torch.isfinite(squared.sum(0))
                real = torch.arange(part.units, device=squared.device) < part.real
                factors = torch.where(finite & real, clipping.factors(squared), 0.0)
                norms = (factors.square() * squared).sum(0)[finite & real].sqrt()
                dropped_here = None if bool(finite.all()) else ~finite
                for parameter, total in book.weighted_sums(factors, dropped_here):
                    if parameter in totals:
                        totals[parameter] += total
                    else:
                        totals[parameter] = total
            if norms.numel():
                longest, together = max(longest, float(norms.max())), together + float(norms.sum())
            units += part.real
            within += int((real & (factors >= 1.0).all(0)).sum())
            dropped += int((real & ~finite).sum())
        gradients = [
            totals[p].to(p.dtype).contiguous() if p in totals else p.new_zeros(p.shape)
            for p in self.parameters
        ]
        return ClippedSum(gradients, units, within, dropped, longest, together)

    def _probe(self, inputs: torch.Tensor) -> None:
        """Try the model on made-up rows, in two numbers of them: a dimension that is not the
        rows' may have one number by chance."""
        example = self._prepare(inputs[:1])
        fits = rows_that_fit(self._attached, example)
        refuse_mixed_rows(self._attached, example)
        if self.physical_batch is None:
            self.physical_batch = fits
        self._probed = True

    def _book(
        self, loss: Loss, inputs: torch.Tensor, targets: torch.Tensor, part: Physical
    ) -> Book:
        """One forward and one backward pass over a physical batch."""
        rows = Rows(part.unit.to(inputs.device), part.units)
        book = Book(rows, len(self._attached.layers))
        with self._attached.booking(book), torch.enable_grad():
            losses = loss(self._attached.model(inputs), targets)
            if losses.shape != (len(inputs),):
                raise ConfigError(
                    f"loss: gave shape {tuple(losses.shape)} for {len(inputs)} rows; it must give "
                    "one value a row (reduction='none', averaged over all other dimensions)"
                )
            with exact_products():
                total = losses @ part.weight.to(losses)
                around = torch.autograd.grad(total, self.parameters, allow_unused=True)
        self._check_complete(book, around)
        return book

    def _check_complete(self, book: Book, around: tuple[torch.Tensor | None, ...]) -> None:
        names = {p: name for name, p in self._attached.model.named_parameters()}
        for parameter, gradient in zip(self.parameters, around, strict=True):
            if gradient is not None:
                raise ConfigError(
                    f"parameter {names[parameter]!r} is used in another way than by calling the "
                    "module that owns it, so its gradient is not clipped; register a rule for the "
                    "module that uses it (`by_vmap` serves a module as a whole)"
                )
        missing = [names[p] for p in self.parameters if p not in book.entered]
        if missing:
            raise ConfigError(
                f"parameter {missing[0]!r} took no part in the pass; freeze it with "
                "requires_grad_(False), or it would learn from noise alone"
            )
