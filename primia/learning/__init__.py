"""Models, private training and evaluation at one site.

`private` is DP-SGD for any PyTorch model, without the federation; docs/dp-sgd.md shows it.

Importing this package loads no torch: `metrics` and `terms` serve the coordinator's report and
the price of a plan. The names below load it when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from primia.learning.clipping import AdaptiveQuantile, Automatic, Flat, PerLayer
    from primia.learning.convert import batch_to_group_norm, train_only
    from primia.learning.engine import by_vmap, table
    from primia.learning.training import PrivateTraining, private

_HOME = {
    "AdaptiveQuantile": "clipping",
    "Automatic": "clipping",
    "Flat": "clipping",
    "PerLayer": "clipping",
    "PrivateTraining": "training",
    "batch_to_group_norm": "convert",
    "by_vmap": "engine",
    "private": "training",
    "table": "engine",
    "train_only": "convert",
}

__all__ = [
    "AdaptiveQuantile",
    "Automatic",
    "Flat",
    "PerLayer",
    "PrivateTraining",
    "batch_to_group_norm",
    "by_vmap",
    "private",
    "table",
    "train_only",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f"primia.learning.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
