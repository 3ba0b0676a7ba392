"""Models, private training and evaluation at one site.

`private` is DP-SGD for any PyTorch model, without the federation; docs/dp-sgd.md shows it.

Importing this package loads no torch: `metrics` and `terms` serve the coordinator's report and
the price of a plan. Import the modules you need by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from primia.learning.training import PrivateTraining, private

__all__ = ["PrivateTraining", "private"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from primia.learning import training

        return getattr(training, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
