"""What a comparison's margin costs: values just under zero that pass a ReLU as they are.

The protocol's comparisons leave out the bits under 2^-12 ("lan") or 2^-9 ("wan"), so such a value
may pass, by the mask's chance. Here every one of them does, which is worse than the protocol; and
each maximum is the least of the values that its comparisons may take for the largest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from primia.inference.ops import compare, wide

MARGIN = {"lan": 2.0**-compare.PRECISION_BITS, "wan": 2.0**-wide.PRECISION_BITS}
_BATCH = 50


def cost(model: nn.Module, films: Tensor, profile: str) -> dict[str, Any]:
    """Of a network in evaluation mode and normalised films: the share of the ReLUs' and maxima's
    inputs that may go wrong, the largest change of a logit, and the classes that change."""
    margin, counts = MARGIN[profile], np.zeros(2, np.int64)

    def count(close: Tensor) -> None:
        counts[:] += (int(close.sum()), close.numel())

    def leaky(_module: nn.Module, inputs: tuple[Tensor], out: Tensor) -> Tensor:
        close = (inputs[0] < 0) & (inputs[0] > -margin)
        count(close)
        return torch.where(close, inputs[0], out)

    def low_maximum(module: nn.Module, inputs: tuple[Tensor], out: Tensor) -> Tensor:
        assert isinstance(module, nn.MaxPool2d)
        k, stride, pad = module.kernel_size, module.stride, module.padding
        assert isinstance(k, int)
        assert isinstance(stride, int)
        assert isinstance(pad, int)
        padded = functional.pad(inputs[0], (pad,) * 4, value=-torch.inf)
        windows = padded.unfold(2, k, stride).unfold(3, k, stride).flatten(4)
        top = out[..., None]  # k - 1 comparisons along each axis
        close = (windows < top) & (windows > top - 2 * (k - 1) * margin)
        count(close)
        least: Tensor = torch.where(close, windows, top).amin(4)
        return least

    hooks = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # its input is wanted afterwards
            hooks.append(module.register_forward_hook(leaky))
        elif isinstance(module, nn.MaxPool2d):
            hooks.append(module.register_forward_hook(low_maximum))
    wrong = logits(model, films)
    for hook in hooks:
        hook.remove()
    right = logits(model, films)
    return {
        "margin": margin,
        "share": float(counts[0] / max(1, counts[1])),
        "max_logit_change": float(np.abs(wrong - right).max()),
        "classes_changed": int((wrong.argmax(1) != right.argmax(1)).sum()),
    }


def logits(model: nn.Module, films: Tensor) -> Any:
    """Of a network as it is."""
    with torch.inference_mode():
        return torch.cat([model(part) for part in films.split(_BATCH)]).numpy()
