"""Half precision in the forward pass, float32 or more wherever a bound is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def exact_products() -> Iterator[None]:
    """Inside, no autocast and no TF32: what norms and sums are made with."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.backends.cudnn.flags(allow_tf32=False))
            for kind in kinds:
                stack.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def autocast_dtype(x: torch.Tensor) -> torch.dtype | None:
    """What autocast would compute in here, or None; the rules cast for themselves."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.is_floating_point() and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return None


def taken(rows: torch.Tensor | None, tensor: torch.Tensor) -> torch.Tensor:
    """These rows of `tensor`, or all."""
    return tensor if rows is None else tensor[rows]


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` in at least float32: norms and sums are never made in half precision."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def scaled(tensor: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Each row times its factor, in at least float32."""
    broad = wide(tensor)
    return broad * factors.to(broad.dtype).view(-1, *[1] * (tensor.dim() - 1))
