"""A prepared model on disk: what was written comes back, and nothing else is believed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import programs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.errors import ConfigError
from primia.inference import model_file
from primia.inference.program import to_json

PROGRAM = programs.residual_program()
WEIGHTS = programs.random_weights(PROGRAM)
DATA = model_file.pack(PROGRAM, WEIGHTS)


def with_header(change: dict[str, Any], data: bytes = DATA) -> bytes:
    """The file with other entries in its header's texts."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] |= change
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def test_a_model_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(DATA)
    program, weights = model_file.read(path)
    assert program == PROGRAM
    assert weights.keys() == WEIGHTS.keys()
    assert all(np.array_equal(weights[k], WEIGHTS[k]) for k in WEIGHTS)


def test_weights_of_another_program_are_not_written() -> None:
    with pytest.raises(ValueError, match="n1"):
        model_file.pack(PROGRAM, {k: v for k, v in WEIGHTS.items() if k != "n1.weight"})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a prepared model"),
        (b"\x80\x04\x95" * 40, "not a prepared model"),
        (struct.pack("<Q", 1 << 62) + DATA[8:], "header is too long"),
        (with_header({"format": "primia-model/1"}), "its format is 'primia-model/1'"),
        (with_header({"program": "{}"}), "program refused"),
        (with_header({"weights_sha256": "0" * 64}), "not those it was written with"),
        (
            with_header({"program": to_json(programs.residual_program(norm=False)).decode()}),
            "belongs to no layer",
        ),
        (DATA[:-8], "not a usable model"),
        (DATA + bytes(8), "not a usable model"),
    ],
)
def test_a_hostile_file_is_refused_with_cause_and_remedy(data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"x.safetensors: .*{message}.*primia infer prepare"):
        model_file.unpack(data, "x.safetensors")


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_no_flipped_byte_goes_unnoticed(position: int, flip: int) -> None:
    data = bytearray(DATA)
    data[position] ^= flip
    try:
        program, weights = model_file.unpack(bytes(data), "x")
    except ConfigError:
        return
    # A byte of the program's text may make another valid program, which has another hash; a file
    # is the owner's own, and the data owner sees the hash.
    assert program.digest != PROGRAM.digest
    assert all(np.array_equal(weights[k], WEIGHTS[k]) for k in WEIGHTS)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.safetensors: cannot be read"):
        model_file.read(tmp_path / "no.safetensors")
