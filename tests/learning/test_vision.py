import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import primia
from primia.learning import vision


def _run(code: str) -> str:
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    return out.stdout.strip()


def test_torchvision_imports_behind_the_guard_whatever_torch_is_installed():
    assert vision.resnet18(num_classes=2).fc.out_features == 2
    assert importlib.import_module("torchvision.ops").box_area is not None
    assert importlib.import_module("torchvision.transforms.v2").Resize is not None


def test_the_guard_declares_nothing_twice_when_the_operators_exist():
    # Stands for an installation whose native library loads: the schemas are there already.
    code = (
        "import torch; lib = torch.library.Library('torchvision', 'DEF');"
        "lib.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor');"
        "lib.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor');"
        "import primia.learning.vision as v; print(v._library)"
    )
    assert _run(code) == "None"


def test_torchvision_imported_before_the_guard_does_no_harm_where_it_works():
    vision._declare_missing_operators()  # a second time: all is declared
    assert hasattr(torch.ops.torchvision, "nms")


@pytest.mark.parametrize("package", ["primia", "coordinator", "worker"])
def test_no_other_module_imports_torchvision(package):
    root = Path(primia.__file__).parents[1] / package
    guilty = [
        str(file.relative_to(root))
        for file in root.rglob("*.py")
        if ("import torchvision" in (text := file.read_text()) or "from torchvision" in text)
    ]
    assert guilty == (["learning/vision.py"] if package == "primia" else [])
