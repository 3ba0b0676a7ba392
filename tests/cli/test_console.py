"""What a person reads aloud must be what was meant."""

from __future__ import annotations

import sys

import pytest
import typer

from primia.cli.console import BUG, out, run


def test_a_fingerprint_is_printed_letter_for_letter(capsys: pytest.CaptureFixture[str]) -> None:
    fingerprint = "af:ab:c4:cl:ng:ok"  # rich would make :ab: and others a picture
    out.print(f"fingerprint {fingerprint}", soft_wrap=True)
    assert fingerprint in capsys.readouterr().out


def test_a_bug_is_told_apart_from_a_refusal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()

    @app.command()
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["primia"])
    with pytest.raises(SystemExit) as ended:
        run(app)
    assert ended.value.code == BUG
    assert "ZeroDivisionError" in capsys.readouterr().err
