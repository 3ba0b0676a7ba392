"""Small wheels, made up: enough for pip and for a bundle."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from primia import __version__


def wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    tag: str = "py3-none-any",
    requires: Iterable[str] = (),
    headers: Iterable[str] = ("License-Expression: MIT",),
    data: Mapping[str, str] = {},
) -> Path:
    """Write NAME-VERSION-TAG.whl with one module, and with `data` as its data files."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name}-{version}"
    info = f"{stem}.dist-info"
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *headers]
    lines += [*(f"Requires-Dist: {r}" for r in requires), ""]
    members = {
        f"{name}_module.py": "",
        **{f"{stem}.data/data/{path}": text for path, text in data.items()},
        f"{info}/METADATA": "\n".join(lines),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{k},sha256={_digest(v)},{len(v.encode())}\n" for k, v in members.items())
    members[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    path = folder / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(zipfile.ZipInfo(member), text)
    return path


def _digest(text: str) -> str:
    raw = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def primia(folder: Path, *requires: str, version: str = __version__) -> Path:
    """A wheel that passes for this program's."""
    headers = ["License-Expression: MIT", "Provides-Extra: dicom"]
    examples = {"share/primia/configs/site.example.yaml": "data: {}\n"}
    return wheel(folder, "primia", version, requires=requires, headers=headers, data=examples)
