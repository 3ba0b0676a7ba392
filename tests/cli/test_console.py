"""What a person reads aloud must be what was meant."""

from __future__ import annotations

import pytest

from primia.cli.console import out


def test_a_fingerprint_is_printed_letter_for_letter(capsys: pytest.CaptureFixture[str]) -> None:
    fingerprint = "af:ab:c4:cl:ng:ok"  # rich would make :ab: and others a picture
    out.print(f"fingerprint {fingerprint}", soft_wrap=True)
    assert fingerprint in capsys.readouterr().out
