"""A bundle: reproducible, installable without a network, and whole or refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from primia import __version__
from primia.bundle.checking import verify_bundle
from primia.bundle.writing import write_bundle
from primia.errors import ConfigError, IdentityError
from tests.bundle.wheelhouse import primia, wheel


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    primia(folder, "one")
    wheel(folder, "one")
    wheel(folder, "unasked")
    return folder


@pytest.fixture
def folder(tmp_path: Path, wheels: Path) -> Path:
    return write_bundle(tmp_path / "bundle", wheels).path


@pytest.fixture
def tar(tmp_path: Path, wheels: Path) -> Path:
    return write_bundle(tmp_path / "bundle.tar", wheels).path


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_bundle_holds_what_it_promises(folder: Path) -> None:
    assert files(folder) == [
        "README.txt",
        "SHA256SUMS",
        "configs/site.example.yaml",
        "requirements.txt",
        "sbom.cdx.json",
        "units/primia-coordinator.service",
        "units/primia-worker.service",
        "units/primia.sysusers.conf",
        "wheels/one-1.0-py3-none-any.whl",
        f"wheels/primia-{__version__}-py3-none-any.whl",
    ]
    assert "@" not in (folder / "README.txt").read_text()
    listed = json.loads((folder / "sbom.cdx.json").read_text())["components"]
    assert [(c["name"], c["version"]) for c in listed] == [("one", "1.0"), ("primia", __version__)]
    assert all(c["licenses"] == [{"license": {"name": "MIT"}}] for c in listed)


def test_the_same_wheels_make_the_same_bytes(tmp_path: Path, wheels: Path) -> None:
    again = tmp_path / "copy"
    shutil.copytree(wheels, again)
    for path in again.iterdir():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    one = write_bundle(tmp_path / "one.tar", wheels)
    other = write_bundle(tmp_path / "other.tar", again)
    unpacked = write_bundle(tmp_path / "folder", wheels)
    assert one.path.read_bytes() == other.path.read_bytes()
    assert one.digest == other.digest == unpacked.digest


def test_a_tar_is_the_folder_under_one_name(folder: Path, tar: Path, tmp_path: Path) -> None:
    with tarfile.open(tar) as archive:
        archive.extractall(tmp_path / "out", filter="data")
    (top,) = (tmp_path / "out").iterdir()
    assert top.name.startswith(f"primia-{__version__}-cp3")
    assert {n: (top / n).read_bytes() for n in files(top)} == {
        n: (folder / n).read_bytes() for n in files(folder)
    }


def test_pip_installs_it_without_an_index_and_by_its_digests(folder: Path, tmp_path: Path) -> None:
    def install(target: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pip", "--isolated", "install", "--quiet", "--no-index",
             "--find-links", "wheels", "--require-hashes", "-r", "requirements.txt",
             "--no-compile", "--target", str(tmp_path / target)],
            cwd=folder, capture_output=True, text=True, timeout=120,
            env={**os.environ, "PIP_CONFIG_FILE": os.devnull},
        )  # fmt: skip

    installed = install("good")
    assert installed.returncode == 0, installed.stderr
    assert (tmp_path / "good" / "one_module.py").exists()
    wheel(folder / "wheels", "one", headers=["License-Expression: Other"])
    assert "DO NOT MATCH THE HASHES" in install("bad").stderr


def test_the_system_s_own_tool_reads_the_sums(folder: Path) -> None:
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=folder).returncode == 0


def test_a_whole_bundle_is_well_in_both_forms(folder: Path, tar: Path) -> None:
    found = verify_bundle(folder)
    assert (found.files, found.wheels) == (10, 2)
    assert verify_bundle(tar) == found
    assert verify_bundle(tar, found.digest.upper()) == found


def test_another_digest_than_the_one_told_is_refused(folder: Path) -> None:
    with pytest.raises(IdentityError, match="not the one given"):
        verify_bundle(folder, "0" * 64)


def add(folder: Path) -> None:
    (folder / "wheels" / "more-1.0-py3-none-any.whl").write_bytes(b"")


def lose(folder: Path) -> None:
    (folder / "wheels" / "one-1.0-py3-none-any.whl").unlink()


def link(folder: Path) -> None:
    (folder / "more").symlink_to("/etc/passwd")


def change_a_unit(folder: Path) -> None:
    with (folder / "units" / "primia-worker.service").open("a") as file:
        file.write("User=root\n")


def no_sum(folder: Path) -> None:
    with (folder / "SHA256SUMS").open("a") as file:
        file.write("# a comment\n")


@pytest.mark.parametrize("harm", [add, lose, link, change_a_unit, no_sum])
def test_a_bundle_that_is_not_as_listed_is_refused(
    folder: Path, harm: Callable[[Path], None]
) -> None:
    harm(folder)
    with pytest.raises(IdentityError):
        verify_bundle(folder)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_changed_byte_is_found(folder: Path, data: st.DataObject) -> None:
    digest = verify_bundle(folder).digest
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(folder, Path(scratch) / "copy"))
        path = copy / data.draw(st.sampled_from(files(copy)))
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        with pytest.raises(IdentityError):
            verify_bundle(copy, digest)


@pytest.mark.parametrize("member", ["../evil", "/etc/evil", "top/../../evil", "alone"])
def test_a_tar_that_would_write_elsewhere_is_refused(tar: Path, member: str) -> None:
    with tarfile.open(tar, "a:") as archive:
        entry = tarfile.TarInfo(member)
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(IdentityError, match="do not unpack it"):
        verify_bundle(tar)


def test_a_tar_with_a_link_or_a_second_file_of_a_name_is_refused(tar: Path, tmp_path: Path) -> None:
    twice = tmp_path / "twice.tar"
    shutil.copy(tar, twice)
    with tarfile.open(tar, "a:") as archive:
        entry = tarfile.TarInfo("top/link")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    with pytest.raises(IdentityError, match="no plain file"):
        verify_bundle(tar)
    with tarfile.open(twice, "a:") as archive:
        archive.addfile(tarfile.TarInfo("top/SHA256SUMS"), io.BytesIO())
    with pytest.raises(IdentityError, match="there twice"):
        verify_bundle(twice)


@pytest.mark.parametrize("content", [b"", b"no tar at all", b"\0" * 1024])
def test_what_is_no_bundle_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        verify_bundle(path)
    with pytest.raises(ConfigError):
        verify_bundle(tmp_path)
    with pytest.raises(ConfigError):
        verify_bundle(tmp_path / "missing")


def test_nothing_is_overwritten_and_nothing_half_written_is_left(
    tmp_path: Path, wheels: Path
) -> None:
    write_bundle(tmp_path / "b.tar", wheels)
    with pytest.raises(ConfigError, match="exists"):
        write_bundle(tmp_path / "b.tar", wheels)
    assert [p.name for p in tmp_path.iterdir()] == ["b.tar"]


def test_wheels_of_another_version_of_primia_are_refused(tmp_path: Path) -> None:
    primia(tmp_path / "w", version="9.9")
    with pytest.raises(ConfigError, match=r"version 9\.9, this program"):
        write_bundle(tmp_path / "out", tmp_path / "w")
