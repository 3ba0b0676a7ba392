"""Generate primia/wire/v1 from protos/: `python -m primia.wire.generate` in a checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def generate(out: Path) -> list[Path]:
    """Run protoc (grpcio-tools) on every .proto and return what it wrote below `out`."""
    protos = sorted((ROOT / "protos").rglob("*.proto"))
    names = [str(proto.relative_to(ROOT / "protos")) for proto in protos]
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", *outputs, *names],
        check=True,
    )
    return sorted((out / "primia" / "wire" / "v1").glob("*_pb2*.py*"))


if __name__ == "__main__":
    for path in generate(ROOT):
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
