"""`primia attack` as it is typed: what is said while it works, and of what it wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from primia.cli.console import err
from primia.cli.findings import show
from primia.cli.main import app
from primia.errors import ConfigError, DataError
from primia.findings import Finding, Picture, Verdict


@pytest.mark.parametrize("attack", ["imprint", "labels"])
def test_something_is_said_before_films_are_drawn(
    attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    @contextmanager
    def status(text: str) -> Iterator[None]:
        said.append(text)
        yield

    def case_of(*_: object) -> None:
        raise DataError(f"after {said}")

    monkeypatch.setattr(err, "status", status)
    monkeypatch.setattr("primia.audit.films.case_of", case_of)
    done = CliRunner().invoke(app, ["attack", attack])
    assert isinstance(done.exception, DataError)
    assert str(done.exception) == "after ['drawing films']"


def test_a_layer_too_large_to_attack_is_refused_before_films_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("primia.audit.films.case_of", lambda *_: pytest.fail("it drew films"))
    done = CliRunner().invoke(app, ["attack", "imprint", "--size", "512", "--films", "20"])
    assert isinstance(done.exception, ConfigError)
    assert "134 million weights" in str(done.exception)
    assert "--size 256 or less" in str(done.exception)


@pytest.mark.parametrize("pictures", [0, 1])
def test_pictures_are_spoken_of_where_there_are_some(
    pictures: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = Finding(
        command="attack labels",
        title="t",
        question="q",
        verdict=Verdict.HELD,
        answer="a",
        limits="l",
        pictures=(Picture("t", "w", b"png"),) * pictures,
        local=True,
    )
    show(finding, tmp_path / "out", json=False)
    assert len(list(tmp_path.glob("out/*.png"))) == pictures
    assert ("pictures in" in capsys.readouterr().err) == bool(pictures)
