from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from primia.inference.prg import Prg

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "inference.json").read_text())


@pytest.mark.parametrize("case", VECTORS, ids=lambda c: str(c["label"]))
def test_streams_are_those_of_the_vectors(case: dict[str, str]) -> None:
    prg = Prg(bytes.fromhex(case["seed"]))
    if "tail" in case:
        drawn = prg.draw(case["label"], (int(case["size"]),), np.uint8).tobytes()
        assert drawn[-40:].hex() == case["tail"]
        return
    wanted = bytes.fromhex(case["stream"])
    assert prg.draw(case["label"], (len(wanted),), np.uint8).tobytes() == wanted


def test_words_are_little_endian_bytes_of_the_same_stream() -> None:
    octets = Prg(bytes(32)).draw("mask|x", (64,), np.uint8).tobytes()
    for kind in (np.uint16, np.uint32, np.uint64):
        words = Prg(bytes(32)).draw("mask|x", (2, 64 // np.dtype(kind).itemsize // 2), kind)
        assert words.tobytes() == octets


def test_a_label_serves_once() -> None:
    prg = Prg(bytes(32))
    prg.draw("mask|x", (1,))
    with pytest.raises(ValueError, match="asked for twice"):
        prg.draw("mask|x", (1,))


def test_labels_and_seeds_give_streams_of_their_own() -> None:
    other = Prg(b"\x01" + bytes(31))
    one = Prg(bytes(32))
    drawn = [p.draw(label, (2,)).tobytes() for p in (one, other) for label in ("mask|1", "share|1")]
    assert len(set(drawn)) == 4


def test_a_short_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="need 32"):
        Prg(bytes(16))
