"""One trainable module while its gradients are booked, and the rules that know how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from primia.errors import ConfigError, StateError
from primia.learning.engine.book import Book, WeightedSum
from primia.learning.engine.choice import Choice, Method
from primia.learning.engine.precision import wide

Rule = Callable[..., torch.Tensor]
"""(layer, *inputs) -> output: the module's forward pass, made so that its backward pass enters
every trainable parameter of the module into `layer.book`."""


@dataclass(eq=False)
class Layer:
    """A module with trainable parameters of its own.

    group: its number among the layers. tied: a parameter of it belongs to another module too.
    forward: what the module does outside private training. wanted: a method asked for by name.
    """

    path: str
    module: nn.Module
    group: int
    rule: Rule
    forward: Callable[..., Any]
    parameters: dict[str, nn.Parameter]
    tied: bool = False
    wanted: Method | None = None
    choice: Choice | None = None
    _book: Book | None = field(default=None, repr=False)

    @property
    def book(self) -> Book:
        """The book of the micro-batch under way."""
        if self._book is None:
            raise StateError(f"module {self.name}: its private forward runs outside a step")
        return self._book

    def open(self, book: Book | None) -> None:
        """Book into `book` from now on; None closes."""
        self._book = book

    @contextmanager
    def unpatched(self) -> Iterator[None]:
        """Inside, the module and its children do what they do outside private training."""
        modules = list(self.module.modules())
        private = [module.__dict__.pop("forward", None) for module in modules]
        try:
            yield
        finally:
            for module, forward in zip(modules, private, strict=True):
                if forward is not None:
                    module.forward = forward

    @property
    def name(self) -> str:
        """For messages."""
        return repr(self.path) if self.path else "(the model itself)"

    def called(self, x: torch.Tensor, dims: int = 0) -> None:
        """Count a forward call; a module used twice has its gradients added up before clipping.

        Raises ConfigError unless `x` has the batch's rows first, and `dims` dimensions (if given).
        """
        self.book.calls[self.group] += 1
        rows = len(self.book.rows)
        if x.shape[:1] != (rows,) or (dims and x.dim() != dims):
            raise ConfigError(
                f"module {self.name}: input of shape {tuple(x.shape)} where the batch has {rows} "
                "row(s); each row's own has to come first, or gradients cannot be told apart"
            )

    @property
    def adds_up(self) -> bool:
        """Whether norms alone would miss the cross terms of several calls or of tied weights."""
        return self.tied or self.book.calls[self.group] > 1

    def decide(
        self, grams: tuple[Method, ...], cheaper: bool, reason: str, *, positions: int
    ) -> Method:
        """The method for a call of this layer, noted for `explain`.

        grams: the ways it has to norms alone, best first; taken when `cheaper`, unless a method
        was asked for. Raises ConfigError when one was that this layer does not have.
        """
        method = grams[0] if cheaper else Method.PER_SAMPLE
        if self.wanted is not None:
            if self.wanted not in (has := (*grams, Method.PER_SAMPLE)):
                raise ConfigError(
                    f"module {self.name}: {self.wanted.value} is no method for it; there are "
                    f"{', '.join(m.value for m in has)}"
                )
            method, reason = self.wanted, "asked for"
        if self.adds_up:
            method, reason = Method.PER_SAMPLE, "its weights are used more than once"
        self.note(method, reason, positions=positions)
        return method

    def note(self, method: Method, reason: str, *, positions: int) -> None:
        """Keep what `explain` tells of this layer."""
        weights = sum(p.numel() for p in self.parameters.values())
        kind = type(self.module).__name__
        self.choice = Choice(self.path, kind, positions, weights, method, reason)

    def enter_gradients(self, name: str, per_row: torch.Tensor) -> None:
        """Book each row's gradient of the parameter `name`, in float32 or float64."""
        self.book.enter_gradients(self.group, self.parameters[name], wide(per_row))

    def enter_norms(
        self,
        name: str,
        norms: tuple[torch.Tensor, torch.Tensor],
        later: WeightedSum,
        used: Sequence[torch.Tensor],
    ) -> None:
        """Book each unit's squared norm for the parameter `name`, and its sum for later; as
        `Book.enter_norms`."""
        self.book.enter_norms(self.group, self.parameters[name], norms, later, used)
