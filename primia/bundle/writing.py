"""Write a bundle: the same wheels make the same bytes, whoever makes it and when."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from primia import __version__
from primia.bundle.units import Role, file_text, unit_text
from primia.bundle.wheels import Wheel, needed, target
from primia.errors import ConfigError

SUMS = "SHA256SUMS"
REQUIREMENTS = "requirements.txt"
_EPOCH = 315_532_800  # 1980-01-01 UTC, the first day of ZIP
_EXAMPLES = f"primia-{__version__}.data/data/share/primia/configs/"


@dataclass(frozen=True)
class Made:
    """What was written; `digest` is that of SHA256SUMS, which names every other file's."""

    path: Path
    wheels: tuple[Wheel, ...]
    size: int  # bytes
    digest: str


def write_bundle(out: Path, wheelhouse: Path, extras: Collection[str] = ()) -> Made:
    """Write a bundle to `out`, a tar when so named, else a new folder; all or nothing.

    Raises ConfigError: `out` exists or cannot be written, or the wheels are not what it takes.
    """
    if out.exists():
        raise ConfigError(f"{out} exists; name a new file or folder, or remove it")
    wheels = needed(wheelhouse, "primia", extras)
    own = next(w for w in wheels if w.name == "primia")
    if str(own.version) != __version__:
        raise ConfigError(
            f"{own.path} is version {own.version}, this program {__version__}; make the wheel anew"
        )
    texts = {**_texts(wheels), **_examples(own)}
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in texts.items()}
    sums |= {f"wheels/{w.path.name}": w.sha256 for w in wheels}
    listed = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()
    texts[SUMS] = listed
    try:
        _write(out, texts, wheels)
    except OSError as err:
        raise ConfigError(f"{out} cannot be written ({err.strerror}); check path and disk") from err
    size = sum(map(len, texts.values())) + sum(w.path.stat().st_size for w in wheels)
    return Made(out, tuple(wheels), size, hashlib.sha256(listed).hexdigest())


def _texts(wheels: list[Wheel]) -> dict[str, bytes]:
    glibc = max((w.glibc for w in wheels if w.glibc), default=None)
    facts = {
        "VERSION": __version__,
        "TARGET": target(),
        "PYTHON": f"{sys.version_info.major}.{sys.version_info.minor}",
        "GLIBC": "any" if glibc is None else "{}.{} or newer".format(*glibc),
    }
    readme = file_text("README.txt")
    for name, value in facts.items():
        readme = readme.replace(f"@{name}@", value)
    texts = {
        "README.txt": readme,
        REQUIREMENTS: "".join(f"{w.name}=={w.version} --hash=sha256:{w.sha256}\n" for w in wheels),
        "sbom.cdx.json": json.dumps(_bill_of_materials(wheels), indent=1, sort_keys=True) + "\n",
        "units/primia.sysusers.conf": file_text("primia.sysusers.conf"),
        **{f"units/primia-{role.value}.service": unit_text(role) for role in Role},
    }
    return {name: text.encode() for name, text in texts.items()}


def _bill_of_materials(wheels: list[Wheel]) -> dict[str, object]:
    """CycloneDX 1.5, without the optional time and serial number: it must not change."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "name": "primia", "version": __version__}
        },
        "components": [
            {
                "type": "library",
                "name": w.name,
                "version": str(w.version),
                "purl": f"pkg:pypi/{w.name}@{w.version}",
                "licenses": [{"license": {"name": w.licence}}],
                "hashes": [{"alg": "SHA-256", "content": w.sha256}],
            }
            for w in wheels
        ],
    }


def _examples(own: Wheel) -> dict[str, bytes]:
    """The commented example files, from primia's own wheel."""
    with zipfile.ZipFile(own.path) as archive:
        names = [n for n in archive.namelist() if n.startswith(_EXAMPLES)]
        if not names:
            raise ConfigError(f"{own.path} holds no example files; make the wheel anew")
        return {f"configs/{n.removeprefix(_EXAMPLES)}": archive.read(n) for n in names}


def _write(out: Path, texts: Mapping[str, bytes], wheels: Iterable[Wheel]) -> None:
    """Beside `out` first, then in its place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".primia-bundle-", dir=out.parent) as scratch:
        part = Path(scratch) / out.name
        if out.suffix == ".tar":
            _write_tar(part, texts, wheels)
        else:
            part.mkdir(mode=0o755)
            for name, data in texts.items():
                (part / name).parent.mkdir(exist_ok=True)
                (part / name).write_bytes(data)
            (part / "wheels").mkdir()
            for wheel in wheels:
                shutil.copyfile(wheel.path, part / "wheels" / wheel.path.name)
        part.rename(out)


def _write_tar(out: Path, texts: Mapping[str, bytes], wheels: Iterable[Wheel]) -> None:
    """Sorted, one date, nobody's names; uncompressed, because wheels are compressed."""
    top = f"primia-{__version__}-{target()}"
    sources: dict[str, bytes | Path] = {**texts}
    sources |= {f"wheels/{w.path.name}": w.path for w in wheels}
    with tarfile.open(out, "x:", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(sources):
            source = sources[name]
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.mtime, entry.mode = _EPOCH, 0o644
            if isinstance(source, bytes):
                entry.size = len(source)
                archive.addfile(entry, io.BytesIO(source))
            else:
                entry.size = source.stat().st_size
                with source.open("rb") as file:
                    archive.addfile(entry, file)
