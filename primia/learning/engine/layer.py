"""One trainable module while its gradients are booked, and the rules that know how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from primia.errors import StateError
from primia.learning.engine.book import Book, WeightedSum
from primia.learning.engine.choice import Choice, Method

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
            raise StateError(f"module {self.path!r}: its private forward runs outside a step")
        return self._book

    def open(self, book: Book | None) -> None:
        """Book into `book` from now on; None closes."""
        self._book = book

    @contextmanager
    def unpatched(self) -> Iterator[None]:
        """Inside, the module does what it does outside private training."""
        private = self.module.__dict__.pop("forward")
        try:
            yield
        finally:
            self.module.forward = private

    def called(self) -> None:
        """Count a forward call; a module used twice has its gradients added up before clipping."""
        self.book.calls[self.group] += 1

    @property
    def adds_up(self) -> bool:
        """Whether norms alone would miss the cross terms of several calls or of tied weights."""
        return self.tied or self.book.calls[self.group] > 1

    def chosen(self, method: Method, reason: str, *, positions: int) -> None:
        """Note the choice for `explain`."""
        weights = sum(p.numel() for p in self.parameters.values())
        kind = type(self.module).__name__
        self.choice = Choice(self.path, kind, positions, weights, method, reason)

    def enter_gradients(self, name: str, per_row: torch.Tensor) -> None:
        """Book each row's gradient of the parameter `name`."""
        self.book.enter_gradients(self.group, self.parameters[name], per_row)

    def enter_norms(self, name: str, squared: torch.Tensor, later: WeightedSum) -> None:
        """Book each unit's squared norm for the parameter `name`, and its sum for later."""
        self.book.enter_norms(self.group, self.parameters[name], squared, later)
