"""The committed generated code is what the .proto files say."""

from __future__ import annotations

import pytest

from primia.wire.generate import ROOT, generate


def test_generated_code_has_not_drifted(tmp_path):
    pytest.importorskip("grpc_tools")
    fresh = generate(tmp_path)
    assert len(fresh) == 9
    for path in fresh:
        committed = ROOT / path.relative_to(tmp_path)
        assert committed.read_bytes() == path.read_bytes(), (
            f"{committed.name} is out of date: run python -m primia.wire.generate"
        )


def test_protos_mirror_the_package():
    protos = {
        p.relative_to(ROOT / "protos").with_suffix("") for p in ROOT.glob("protos/**/*.proto")
    }
    committed = {
        p.relative_to(ROOT).with_name(p.name.removesuffix("_pb2.py"))
        for p in ROOT.glob("primia/wire/v1/*_pb2.py")
    }
    assert protos == committed
