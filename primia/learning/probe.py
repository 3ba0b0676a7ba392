"""Try a model on made-up rows before patients' rows go through it.

Whether each row's gradient is its own cannot be seen in the modules: a hand-written forward may
subtract the mean over the batch, attend over it, or sort it. It shows when made-up rows go through.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from primia.errors import ConfigError
from primia.learning.engine import Attached, Book, Rows

_ROWS = 5


@contextmanager
def passed(attached: Attached, inputs: torch.Tensor) -> Iterator[tuple[Any, Book]]:
    """The outputs for `inputs`, each row a unit, and the book that a backward pass inside fills.

    Leaves torch's generators as they were.
    """
    rows = len(inputs)
    book = Book(Rows(torch.arange(rows, device=inputs.device), rows), len(attached.layers))
    random = [inputs.device] if inputs.device.type == "cuda" else []
    with attached.booking(book), torch.enable_grad(), torch.random.fork_rng(random):
        yield attached.model(inputs), book


def made_up(example: torch.Tensor, rows: int) -> torch.Tensor:
    """So many rows of the shape and kind of `example`'s, with nothing of their values.

    Numbers from 0 to 1, of different size in each row: whatever sorts five of them by size, up or
    down, moves the first.
    """
    shape = (rows, *example.shape[1:])
    if not example.is_floating_point():
        return example.new_zeros(shape)
    generator = torch.Generator().manual_seed(0)
    size = ((3 * torch.arange(rows) + 3) % rows + 1) / rows
    values = torch.rand(shape, generator=generator) * size.view(-1, *[1] * (len(shape) - 1))
    return values.to(example)


def refuse_mixed_rows(attached: Attached, example: torch.Tensor) -> None:
    """Raise ConfigError naming the layer where the output of one row depends on other rows.

    Sends the gradient of the first row's outputs back: no other row may have one, neither in a
    layer nor in the input. Sees what the rows made up here bring about, not every branch that a
    forward may take.
    """
    inputs = made_up(example, _ROWS)
    inputs.requires_grad_(inputs.is_floating_point())
    with passed(attached, inputs) as (outputs, book):
        first = [part[0].sum() for part in _tensors(outputs) if part.shape[:1] == (_ROWS,)]
        if not any(part.requires_grad for part in first):
            return
        wanted = [*attached.parameters, *([inputs] if inputs.requires_grad else [])]
        found = torch.autograd.grad(sum(first[1:], first[0]), wanted, allow_unused=True)
    if inputs.requires_grad and found[-1] is not None and bool(found[-1][1:].ne(0).any()):
        raise ConfigError(f"the model: {_MIXED}")
    if not book.entered:
        return
    others = (book.squared_norms()[:, 1:] > 0).any(1)  # false for NaN: nothing is known then
    for layer in attached.layers:
        if others[layer.group]:
            raise ConfigError(f"module {layer.name}: {_MIXED}")


_MIXED = (
    "one row's output depends on other rows here (a mean over the batch, attention over it, rows "
    "sorted?), so no clipping bounds what one patient changes; let the model treat each row by "
    "itself"
)


def _tensors(outputs: Any) -> Iterator[torch.Tensor]:
    """All floating-point tensors in what a model returned."""
    if isinstance(outputs, torch.Tensor):
        if outputs.is_floating_point():
            yield outputs
    elif isinstance(outputs, dict):
        for part in outputs.values():
            yield from _tensors(part)
    elif isinstance(outputs, list | tuple):
        for part in outputs:
            yield from _tensors(part)
