"""The layering table of the design, enforced on the imports themselves."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# package → what else of primia it may import; errors and types are everybody's.
MAY_IMPORT: dict[str, set[str]] = {
    "config": set(),
    "events": set(),
    "tally": set(),
    "metrics": {"tally"},
    "storage": {"events"},
    "identity": set(),
    "privacy": {"storage"},  # the ledger, on the same disk as the other books
    "secagg": set(),
    "protocol": {"secagg"},
    "federation": {"secagg"},
    "imaging": {"config"},
    "learning": {"privacy", "config", "imaging"},
    "inference": {"config", "learning", "secagg", "storage"},  # learning: the zoo, in prepare
    "report": {"documents", "findings"},
    "wire": {"tally", "protocol", "identity"},
    "settle": {"config", "privacy", "learning"},
    "study": {"config", "federation", "learning"},
    "contribute": {"config", "federation", "imaging", "learning", "privacy", "protocol", "study"},
    "outcome": {"config", "findings", "learning", "pooled_quality", "privacy", "report", "study"},
    "documents": set(),
    "findings": {"documents"},
    # Attacks and audits run on the product's own path, so they sit above all of it.
    "audit": {
        "alone",
        "config",
        "contribute",
        "demo",  # its plans, where none is given
        "federation",
        "findings",
        "imaging",
        "inference",  # reads an export
        "learning",
        "privacy",
        "protocol",
        "report",
        "secagg",
        "settle",
        "simulate",
        "storage",
        "study",
    },
    "alone": {"config", "federation", "imaging", "learning", "study"},
    "site_quality": {"alone", "config", "federation", "imaging", "learning", "report"},
    "pooled_quality": {"learning", "report", "site_quality"},
    "annex": {"config", "learning", "privacy"},
    "logs": set(),
    "roster": {"storage", "identity"},  # of whoever invites: coordinator, model owner
    # The three roles of encrypted prediction, as services: `inference` itself does no I/O.
    "infer": {
        "demo",
        "identity",
        "imaging",
        "inference",
        "learning",  # its demonstration builds a network
        "logs",
        "roster",
        "storage",
        "wire",
    },
    "bundle": set(),
    "cli": {
        "annex",
        "audit",
        "bundle",
        "config",
        "demo",
        "findings",
        "identity",
        "imaging",
        "infer",
        "inference",
        "learning",
        "outcome",
        "privacy",
        "report",
        "settle",
        "simulate",
        "storage",
        "study",
    },
    "demo": {"imaging", "report"},
    "simulate": {
        "config",
        "contribute",
        "demo",
        "federation",
        "identity",
        "imaging",
        "learning",
        "outcome",
        "privacy",
        "protocol",
        "report",
        "secagg",
        "settle",
        "site_quality",
        "study",
        "wire",
    },
}
TORCH = {"audit", "inference", "learning"}
EVERYBODYS = {"errors", "types"}
FORBIDDEN = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}


def modules(folder: str) -> list[Path]:
    return [p for p in sorted((ROOT / folder).rglob("*.py")) if "v1" not in p.parts]


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return found


@pytest.mark.parametrize("path", modules("primia"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    relative = path.relative_to(ROOT / "primia")
    layer = relative.parts[0].removesuffix(".py")
    if layer in {"__init__", "__main__", "errors", "types"}:
        return
    for name in imports(path):
        top, _, rest = name.partition(".")
        assert top not in {"coordinator", "worker"}, f"{relative} imports {name}"
        if top == "torch":
            assert layer in TORCH, f"{relative} imports torch"
        if top == "torchvision":
            assert relative.name == "vision.py", "torchvision has one guarded door"
        if top == "primia" and rest:
            target = rest.split(".")[0]
            allowed = MAY_IMPORT[layer] | EVERYBODYS | {layer, "__version__"}
            assert target in allowed, f"{relative} imports {name}"


@pytest.mark.parametrize("path", modules("coordinator") + modules("worker"), ids=lambda p: p.name)
def test_the_applications_do_not_import_each_other(path: Path) -> None:
    other = {"coordinator": "worker", "worker": "coordinator"}[path.relative_to(ROOT).parts[0]]
    assert not {n for n in imports(path) if n.split(".")[0] == other}


SOURCES = modules("primia") + modules("coordinator") + modules("worker")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_pickled_and_no_class_comes_off_the_wire(path: Path) -> None:
    assert not {n.split(".")[0] for n in imports(path)} & FORBIDDEN
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = ast.unparse(node.func)
            assert called not in {"torch.load", "yaml.load", "np.load_pickle"}
            if called.endswith("np.load"):
                assert any(
                    k.arg == "allow_pickle" and ast.unparse(k.value) == "False"
                    for k in node.keywords
                )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "__import__"}


LIGHT = ["primia.secagg.masks", "primia.protocol.site", "primia.config", "primia.inference.program"]


@pytest.mark.parametrize("module", LIGHT)
def test_the_light_layers_do_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", ["primia.cli.main", "coordinator.cli", "worker.cli"])
def test_help_does_not_load_what_only_work_needs(module: str) -> None:
    heavy = "{'torch', 'numpy', 'grpc', 'pydantic', 'matplotlib', 'scipy', 'dp_accounting'}"
    code = f"import sys, {module}; sys.exit(' '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"loads {done.stderr}"


@pytest.mark.parametrize("name", ["primia", "coordinator", "worker"])
def test_no_other_distribution_owns_our_package_names(name: str) -> None:
    assert set(importlib.metadata.packages_distributions().get(name, [])) <= {"primia"}


def test_every_test_module_has_a_name_of_its_own() -> None:
    """pytest imports them by name alone, and stops at the second of one name."""
    seen: dict[str, Path] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        assert path.name not in seen, f"{path} is named as {seen[path.name]}"
        seen[path.name] = path
