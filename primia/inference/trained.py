"""A trained network from its weights on disk: a study's export, or one of torchvision's ResNets.

Weights are safetensors with the network's own tensor names; nothing is unpickled.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from primia.config.plan import ModelTerms
from primia.errors import ConfigError
from primia.inference.model_file import FORMAT
from primia.learning.models import build_for

TORCHVISION = ("resnet18", "resnet34", "resnet50")
MAX_BYTES = 2 << 30

Network = nn.Module
"""For those above that may not know torch."""


def read_export(path: Path) -> tuple[nn.Module, ModelTerms]:
    """The network that `primia-coordinator export` wrote. Raises ConfigError."""
    tensors, metadata = _read(path)
    if metadata.get("format") == FORMAT:
        raise ConfigError(
            f"{path}: was prepared before and is ready for `primia infer serve`; to prepare it "
            "otherwise, give the model that it was made from"
        )
    if metadata.get("format") != "primia-model/1":
        raise ConfigError(
            f"{path}: not a model that primia exported; name its network with --network "
            f"({', '.join(TORCHVISION)})"
        )
    try:
        terms = ModelTerms.model_validate_json(metadata["terms"])
    except (KeyError, ValidationError) as err:
        raise ConfigError(
            f"{path}: does not say how its network is built; export the study again with this "
            "release: primia-coordinator export"
        ) from err
    model = build_for(terms)
    _load(model, tensors, path)
    return model, terms


def read_resnet(path: Path, network: str) -> tuple[nn.Module, int, int]:
    """A ResNet as torchvision builds it, with the channels and classes that its weights have.

    Raises ConfigError.
    """
    if network not in TORCHVISION:
        raise ConfigError(
            f"--network {network}: unknown; choose one of {', '.join(TORCHVISION)}, or leave it "
            "out for a model that primia exported"
        )
    from primia.learning import vision  # late: half a second that an export may save

    tensors, _ = _read(path)
    try:
        classes, channels = tensors["fc.weight"].shape[0], tensors["conv1.weight"].shape[1]
    except (KeyError, IndexError) as err:
        raise ConfigError(f"{path}: has no fc.weight and conv1.weight of a {network}") from err
    model: nn.Module = getattr(vision, network)(weights=None, num_classes=classes)
    if channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    _load(model, tensors, path)
    return model, channels, classes


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: over {MAX_BYTES >> 30} GiB, larger than any network here")
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError as err:
        reason = err.strerror or "cannot be opened"
        raise ConfigError(f"{path}: cannot be read ({reason}); check the path") from err
    except (SafetensorError, json.JSONDecodeError) as err:
        raise ConfigError(
            f"{path}: no safetensors file, or a damaged one; save the weights with safetensors"
        ) from err


def _load(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    wanted = model.state_dict()
    # A state saved without this counter is complete: evaluation does not use it.
    counters = {k for k in wanted if k.endswith("num_batches_tracked")}
    odd = sorted((wanted.keys() ^ tensors.keys()) - counters)
    if odd:
        raise ConfigError(f"{path}: tensor {odd[0]} is missing or unknown; is it another network?")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise ConfigError(
                f"{path}: tensor {name} is {tuple(tensor.shape)}, the network has "
                f"{tuple(wanted[name].shape)}; is it another network?"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ConfigError(f"{path}: tensor {name} is not finite; the model has diverged")
    model.load_state_dict(tensors, strict=False)
