"""Which wheels an installation takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from primia.bundle.wheels import needed
from primia.errors import ConfigError
from tests.bundle.wheelhouse import primia, wheel


def names(folder: Path, *extras: str) -> list[str]:
    return [w.name for w in needed(folder, "primia", extras)]


def test_what_is_needed_is_taken_and_the_rest_left(tmp_path: Path) -> None:
    primia(tmp_path, "one>=1", "two; python_version < '3'")
    wheel(tmp_path, "one", requires=["Three_3"])
    wheel(tmp_path, "three_3")
    wheel(tmp_path, "two")
    wheel(tmp_path, "pytest")
    assert names(tmp_path) == ["one", "primia", "three-3"]


def test_an_extra_is_taken_when_asked_for(tmp_path: Path) -> None:
    primia(tmp_path, "one", "films[fast]; extra == 'dicom'")
    wheel(tmp_path, "one")
    wheel(tmp_path, "films", requires=["decoder; extra == 'fast'", "slow; extra == 'slow'"])
    wheel(tmp_path, "decoder")
    assert names(tmp_path) == ["one", "primia"]
    assert names(tmp_path, "dicom") == ["decoder", "films", "one", "primia"]


def test_packages_that_need_each_other_are_each_taken_once(tmp_path: Path) -> None:
    primia(tmp_path, "one")
    wheel(tmp_path, "one", requires=["two"])
    wheel(tmp_path, "two", requires=["one", "primia"])
    assert names(tmp_path) == ["one", "primia", "two"]


def test_a_wheel_of_another_platform_is_as_good_as_none(tmp_path: Path) -> None:
    primia(tmp_path, "one")
    wheel(tmp_path, "one", tag="cp311-cp311-win_amd64")
    with pytest.raises(ConfigError, match=r"no wheel of one .* which primia needs"):
        names(tmp_path)
    wheel(tmp_path, "one")
    assert names(tmp_path) == ["one", "primia"]


def test_an_extra_that_is_not_there_is_named(tmp_path: Path) -> None:
    primia(tmp_path, "films; extra == 'dicom'")
    with pytest.raises(ConfigError, match="no wheel of films"):
        names(tmp_path, "dicom")
    with pytest.raises(ConfigError, match="no extra dcom; it has: dicom"):
        names(tmp_path, "dcom")


def test_a_version_that_does_not_do_is_named(tmp_path: Path) -> None:
    primia(tmp_path, "one>=2")
    wheel(tmp_path, "one", "1.5")
    with pytest.raises(ConfigError, match=r"holds one 1\.5, and primia needs one>=2"):
        names(tmp_path)


def test_two_versions_of_one_package_are_named(tmp_path: Path) -> None:
    primia(tmp_path, "one")
    wheel(tmp_path, "one", "1.0")
    wheel(tmp_path, "one", "1.1")
    with pytest.raises(ConfigError, match="holds both"):
        names(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a wheel"])
def test_a_damaged_wheel_is_named(tmp_path: Path, content: bytes) -> None:
    primia(tmp_path)
    (tmp_path / "one-1.0-py3-none-any.whl").write_bytes(content)
    with pytest.raises(ConfigError, match=r"one-1\.0-py3-none-any\.whl is not a wheel"):
        names(tmp_path)


def test_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a folder of wheels"):
        names(tmp_path / "missing")


@pytest.mark.parametrize(
    ("headers", "licence"),
    [
        (["License-Expression: Apache-2.0 OR MIT", "License: x"], "Apache-2.0 OR MIT"),
        (["License: BSD"], "BSD"),
        (["License: " + "words " * 20, "Classifier: License :: OSI Approved :: MIT License"],
         "MIT License"),
        (["License: UNKNOWN"], "not stated"),
        ([], "not stated"),
    ],
)  # fmt: skip
def test_the_licence_is_what_the_package_states(
    tmp_path: Path, headers: list[str], licence: str
) -> None:
    wheel(tmp_path, "primia", headers=headers)
    (found,) = needed(tmp_path, "primia", ())
    assert found.licence == licence


@pytest.mark.parametrize(
    ("tag", "glibc"),
    [
        ("py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64", (2, 17)),
        ("py3-none-manylinux_2_28_x86_64", (2, 28)),
        ("py3-none-any", None),
    ],
)
def test_the_glibc_is_the_oldest_that_the_wheel_names(
    tmp_path: Path, tag: str, glibc: tuple[int, int] | None
) -> None:
    wheel(tmp_path, "primia", tag=tag)
    (found,) = needed(tmp_path, "primia", ())
    assert found.glibc == glibc
