"""The one door to torchvision; nothing else in primia imports it.

torchvision's wheel is built against CUDA torch. Beside a CPU-only torch its native library does
not load, and the import then stops because `torchvision::nms` and `torchvision::qnms`, which it
decorates at import time, were never declared. We declare the two schemas first, without an
implementation: models and transforms work, box operators (which we do not use) do not.
Where the native library does load, the schemas exist already and nothing is declared.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

_library: Any = None
"""Keeps the declarations alive: torch drops them together with this object."""


def _native_library_loads() -> bool:
    """Try what torchvision itself does first, so that its own declarations win where they can."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for file in sorted(Path(spec.origin).parent.glob("_C.*")):
        try:
            torch.ops.load_library(str(file))  # type: ignore[no-untyped-call]
        except OSError:  # its CUDA libraries are not here: the case this module is for
            continue
        return True
    return False


def _declare_missing_operators() -> None:
    global _library
    if _native_library_loads():
        return
    missing = [s for name, s in _SCHEMAS.items() if not hasattr(torch.ops.torchvision, name)]
    if missing:
        _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for schema in missing:
            _library.define(schema)


_declare_missing_operators()

# Only after the declarations.
from torchvision.models import resnet18, resnet34, resnet50  # noqa: E402

__all__ = ["resnet18", "resnet34", "resnet50"]
