"""Trained networks on disk: what primia exported, and ResNets of torchvision."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import networks
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from coordinator.export import _save
from primia.config import StudyPlan, load_plan
from primia.config.plan import ModelTerms
from primia.errors import ConfigError
from primia.federation.optimiser import pack_weights
from primia.inference.trained import read_export, read_resnet
from primia.learning.models import build_for, flatten, parameter_count
from primia.learning.vision import resnet18, resnet34

EXAMPLE = Path(__file__).parents[2] / "configs" / "study.example.yaml"


def exported(path: Path, **changes: Any) -> ModelTerms:
    """A model as the coordinator writes it, of a plan whose network is changed so."""
    plan: StudyPlan = load_plan(EXAMPLE)
    terms = ModelTerms(**plan.model.model_dump() | {"input_size": 28} | changes)
    plan = plan.model_copy(update={"model": terms})
    model = build_for(terms, seed=7)
    blobs = SimpleNamespace(get=lambda digest: pack_weights(flatten(model)))
    row = SimpleNamespace(digest="", number=3)
    _save(path, cast(Any, row), plan, cast(Any, blobs), parameter_count(model))
    return terms


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "small-cnn"},
        {"name": "resnet18-gn", "scale_norm": True, "weight_standardisation": True},
        {"name": "resnet18-gn", "channels": 3, "trainable": "head"},
    ],
)
def test_an_export_is_the_network_that_was_trained(tmp_path: Path, changes: Any) -> None:
    path = tmp_path / "model-best.safetensors"
    terms = exported(path, **changes)
    model, read = read_export(path)
    assert read == terms
    np.testing.assert_array_equal(flatten(model), flatten(build_for(terms, seed=7)))


def test_a_resnet_says_its_channels_and_classes(tmp_path: Path) -> None:
    path = tmp_path / "resnet.safetensors"
    model = networks.torchvision_resnet(resnet34, 32)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    read, channels, classes = read_resnet(path, "resnet34")
    assert (channels, classes) == (1, 3)
    films = networks.films(3, 32)
    np.testing.assert_array_equal(networks.logits(read, films), networks.logits(model, films))


def test_what_is_no_such_network_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    state = {k: v.contiguous() for k, v in resnet18(weights=None).state_dict().items()}
    save_file(state, path)
    with pytest.raises(ConfigError, match="not a model that primia exported; name its network"):
        read_export(path)
    with pytest.raises(ConfigError, match="--network vgg16: unknown; choose one of resnet18"):
        read_resnet(path, "vgg16")
    with pytest.raises(ConfigError, match=r"tensor layer1\.2\S+ is missing.*another network"):
        read_resnet(path, "resnet34")
    save_file(state | {"fc.bias": torch.zeros(7)}, path)
    with pytest.raises(ConfigError, match=r"tensor fc\.bias is \(7,\)"):
        read_resnet(path, "resnet18")
    save_file(state | {"fc.bias": torch.full((1000,), float("inf"))}, path)
    with pytest.raises(ConfigError, match=r"tensor fc\.bias is not finite"):
        read_resnet(path, "resnet18")
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ConfigError, match=r"has no fc\.weight"):
        read_resnet(path, "resnet18")


@pytest.mark.parametrize("data", [b"", b"\x80\x04pickle" * 9, b"\xff" * 64])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"weights\.pt: .*(safetensors|cannot be)"):
        read_export(path)


def test_an_export_without_its_terms_asks_for_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    save_file({"w": torch.zeros(1)}, path, metadata={"format": "primia-model/1"})
    with pytest.raises(ConfigError, match="export the study again"):
        read_export(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_export(tmp_path / "none.safetensors")
