"""Convolutions of one to three dimensions, transposed ones and weight-standardised ones.

A transposed convolution is a convolution with the input and the output's gradient exchanged, so
both share every formula here: `a` is the side that is seen in patches, `b` the other one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from primia.learning.engine.choice import Method, gram_is_cheaper
from primia.learning.engine.gram import Gram, channels_gram, pixel_gram, squared_norms
from primia.learning.engine.layer import Layer
from primia.learning.engine.precision import autocast_dtype, scaled, taken, wide
from primia.learning.engine.standardised import (
    TOLERATED,
    channel_scale,
    corrected_norms,
    effective_weight,
    is_standardised,
    through_standardisation,
)

# Which of three kernels makes per-sample gradients: multiply-adds of one row, or positions, from
# which a loop over rows is ahead; positions from which rows as groups are. Measured on one core on
# the layers of ResNet-18, a U-Net and small CNNs; with one input channel, unfolding beats groups.
_LOOP_FROM, _LOOP_FROM_POSITIONS = 50e6, 8192
_GROUPED_FROM = 128


@dataclass(frozen=True)
class Geometry:
    """Of one call of a convolution; every tuple has one entry a dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    def forward(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        y: torch.Tensor = torch.ops.aten.convolution(
            x, weight, bias, self.stride, self.padding, self.dilation, self.transposed,
            self.output_padding, self.groups,
        )  # fmt: skip
        return y

    def _backward(
        self, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, which: int
    ) -> torch.Tensor:
        mask = [i == which for i in range(3)]
        found: torch.Tensor = torch.ops.aten.convolution_backward(
            grad, x, weight, None, self.stride, self.padding, self.dilation, self.transposed,
            self.output_padding, self.groups, mask,
        )[which]  # fmt: skip
        return found

    def input_gradient(
        self, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        return self._backward(grad, x, weight, 0)

    def weight_gradient(
        self, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """Summed over the rows, like `weight`."""
        return self._backward(grad, x, weight, 1)


def convolution(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """Rule for Conv1d, Conv2d, Conv3d and their weight-standardised forms."""
    module: Any = layer.module
    padding = module.padding
    if module.padding_mode != "zeros":
        around = module._reversed_padding_repeated_twice
        x = nn.functional.pad(x, around, mode=module.padding_mode)
        padding = (0,) * len(module.kernel_size)
    elif isinstance(padding, str):
        sizes = zip(module.dilation, module.kernel_size, strict=True)
        total = [d * (k - 1) if padding == "same" else 0 for d, k in sizes]
        padding = tuple(t // 2 for t in total)
        if any(t % 2 for t in total):  # the odd one goes to the end, as in torch
            x = nn.functional.pad(x, [n for t in reversed(total) for n in (0, t % 2)])
    return _convolve(layer, x, padding, (0,) * len(module.kernel_size))


def transposed_convolution(
    layer: Layer, x: torch.Tensor, output_size: list[int] | None = None
) -> torch.Tensor:
    """Rule for ConvTranspose1d, ConvTranspose2d and ConvTranspose3d."""
    module: Any = layer.module
    output_padding = module._output_padding(
        x, output_size, module.stride, module.padding, module.kernel_size,
        len(module.kernel_size), module.dilation,
    )  # fmt: skip
    return _convolve(layer, x, module.padding, tuple(output_padding))


def _convolve(
    layer: Layer, x: torch.Tensor, padding: tuple[int, ...], output_padding: tuple[int, ...]
) -> torch.Tensor:
    module: Any = layer.module
    layer.called(x, dims=len(module.kernel_size) + 2)
    geometry = Geometry(
        module.kernel_size, module.stride, padding, module.dilation,
        bool(module.transposed), output_padding, module.groups,
    )  # fmt: skip
    low = autocast_dtype(x)
    out: torch.Tensor = _Convolution.apply(
        x if low is None else x.to(low), module.weight, module.bias, layer, geometry
    )  # type: ignore[no-untyped-call]
    return out


class _Convolution(torch.autograd.Function):
    """The forward pass of torch; a backward pass that books instead of summing."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        layer: Layer,
        geometry: Geometry,
    ) -> torch.Tensor:
        books_weight = ctx.needs_input_grad[1]
        ctx.layer, ctx.geometry, ctx.shape = layer, geometry, x.shape
        ctx.save_for_backward(x if books_weight else None, weight)
        with torch.autocast(x.device.type, enabled=False):
            used = effective_weight(layer.module, weight).to(x.dtype)
            y = geometry.forward(x, used, None if bias is None else bias.to(x.dtype))
        if books_weight:
            first = not ctx.needs_input_grad[0]
            ctx.method = _choose(layer, geometry, x, y, first)
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        layer, geometry = ctx.layer, ctx.geometry
        gx = None
        if ctx.needs_input_grad[0]:
            used = effective_weight(layer.module, weight).to(grad.dtype)
            like = grad.new_empty(1).expand(ctx.shape) if x is None else x  # only its shape is read
            gx = geometry.input_gradient(grad, like, used)
        if ctx.needs_input_grad[1]:
            _book_weight(layer, geometry, x, weight, grad, ctx.method)
        if ctx.needs_input_grad[2]:
            layer.enter_gradients("bias", wide(grad).flatten(2).sum(2))
        return gx, None, None, None, None


def _choose(
    layer: Layer, geometry: Geometry, x: torch.Tensor, y: torch.Tensor, first: bool
) -> Method:
    """The method for this layer at these shapes, noted for `explain`."""
    module: Any = layer.module
    a, b = (y, x) if geometry.transposed else (x, y)
    positions = b.shape[2:].numel()
    kernel = math.prod(geometry.kernel)
    by_pixels = len(geometry.kernel) == 2 and geometry.stride == (1, 1) and not geometry.transposed
    # k² copies are added up, or k² times the channels multiplied.
    width = a.shape[1] + b.shape[1] + kernel if by_pixels else kernel * a.shape[1] + b.shape[1]
    cheaper, reason = gram_is_cheaper(
        positions=positions,
        weights=module.weight.numel(),
        gram_width=width,
        pairs_per_row=layer.book.rows.pairs_per_row,
        first=first,
    )
    grams = (Method.PIXEL_GRAM, Method.UNFOLD_GRAM) if by_pixels else (Method.UNFOLD_GRAM,)
    return layer.decide(grams, cheaper, reason, positions=positions)


def _book_weight(
    layer: Layer,
    geometry: Geometry,
    x: torch.Tensor,
    weight: torch.Tensor,
    grad: torch.Tensor,
    method: Method,
) -> None:
    if layer.adds_up or method is Method.PER_SAMPLE:
        per_row = per_sample_gradients(geometry, x, grad, weight)
        layer.enter_gradients("weight", through_standardisation(layer.module, weight, per_row))
        return
    a, b = (grad, x) if geometry.transposed else (x, grad)
    gram_b: Gram = partial(channels_gram, groups=geometry.groups)
    positions = b.shape[2:].numel()
    if method is Method.PIXEL_GRAM:
        gram_a: Gram = partial(
            pixel_gram, kernel=geometry.kernel, padding=geometry.padding,
            dilation=geometry.dilation, out=tuple(b.shape[2:]), groups=geometry.groups,
        )  # fmt: skip
    else:
        gram_a = partial(_unfold_gram, geometry=geometry, out=tuple(b.shape[2:]))
    rows = layer.book.rows
    if is_standardised(layer.module):
        scale = channel_scale(layer.module, weight).view(-1, *[1] * (grad.dim() - 2))
        norms = squared_norms(
            a, wide(grad) * scale, rows, gram_a, gram_b, positions, tolerated=TOLERATED
        )
        norms = corrected_norms(layer.module, geometry, rows, x, grad, weight, norms)
    else:
        norms = squared_norms(a, b, rows, gram_a, gram_b, positions)

    def weighted_sum(factors: torch.Tensor, chosen: torch.Tensor | None) -> torch.Tensor:
        total = _weight_gradient(
            geometry, scaled(taken(chosen, grad), factors), wide(taken(chosen, x)), weight
        )
        return through_standardisation(layer.module, weight, total[None])[0]

    layer.enter_norms("weight", norms, weighted_sum, used=(x, grad))


def _weight_gradient(
    geometry: Geometry, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """The gradient summed over the rows; where each row has one position, as one product.

    There most of a kernel meets padding only, and the product takes a fifth of the time of the
    convolution's own backward pass (512 channels, 256 rows, one core).
    """
    if grad.shape[2:].numel() == 1 and geometry.groups == 1 and not geometry.transposed:
        patches = unfold(x, geometry, tuple(grad.shape[2:]))
        return (grad.flatten(1).T @ patches.flatten(1)).view_as(weight)
    return geometry.weight_gradient(grad, x, wide(weight))


def per_sample_gradients(
    geometry: Geometry, x: torch.Tensor, grad: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Each row's gradient of the weight, (rows, *weight.shape), at least float32.

    One call of torch a row where there is much work in a row; else the rows as groups of one
    convolution; else, for few positions, one product of unfolded patches.
    """
    x, grad = wide(x), wide(grad)
    a, b = (grad, x) if geometry.transposed else (x, grad)
    out, n = b.shape[2:], len(x)
    work = out.numel() * weight.numel()
    if work >= _LOOP_FROM or out.numel() >= _LOOP_FROM_POSITIONS:
        gradients = weight.new_empty((n, *weight.shape), dtype=x.dtype)
        for i in range(n):
            gradients[i] = geometry.weight_gradient(grad[i : i + 1], x[i : i + 1], weight)
        return gradients
    if out.numel() >= _GROUPED_FROM and a.shape[1] > geometry.groups:
        one_row = replace(geometry, groups=n * geometry.groups)
        like = x.new_empty(1).expand(n * weight.shape[0], *weight.shape[1:])  # its shape is read
        grad, x = grad.reshape(1, -1, *grad.shape[2:]), x.reshape(1, -1, *x.shape[2:])
        return one_row.weight_gradient(grad, x, like).view(n, *weight.shape)
    patches = unfold(a, geometry, tuple(out))
    right = b.reshape(*patches.shape[:2], -1, out.numel())
    # (n, groups, channels of b, T) times (n, groups, T, channels of a and offsets)
    return (right @ patches.transpose(2, 3)).view(len(x), *weight.shape)


def unfold(a: torch.Tensor, geometry: Geometry, out: tuple[int, ...]) -> torch.Tensor:
    """The patches of each row: (n, groups, channels / groups times offsets, T)."""
    groups, n = geometry.groups, len(a)
    before_after = [p for size in reversed(geometry.padding) for p in (size, size)]
    patches = nn.functional.pad(a, before_after)
    sizes = zip(geometry.kernel, geometry.stride, geometry.dilation, out, strict=True)
    for dim, (k, s, d, t) in enumerate(sizes, start=2):
        # One dimension's positions stay where they were; its offsets go to the end.
        patches = patches.unfold(dim, d * (k - 1) + 1, s)[..., ::d].narrow(dim, 0, t)
    spatial = range(2, 2 + len(out))
    offsets = range(2 + len(out), 2 + 2 * len(out))
    return patches.permute(0, 1, *offsets, *spatial).reshape(
        n, groups, a.shape[1] // groups * math.prod(geometry.kernel), math.prod(out)
    )


def _unfold_gram(
    one: torch.Tensor, other: torch.Tensor, *, geometry: Geometry, out: tuple[int, ...]
) -> torch.Tensor:
    left = unfold(one, geometry, out)
    right = left if other is one else unfold(other, geometry, out)
    return left.transpose(2, 3) @ right
