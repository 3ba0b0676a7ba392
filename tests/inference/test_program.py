"""Programs: one text, one hash; what comes over the wire is checked before it is believed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import programs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.errors import PeerError
from primia.inference.operations import Conv2d, Flatten, Input, Linear, MaxPool2d, ReLU
from primia.inference.program import MAX_BYTES, Program, check_weights, from_json, to_json

PROGRAM = programs.residual_program()
TEXT = to_json(PROGRAM)


def canonical(raw: Any) -> bytes:
    return json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()


def test_a_program_comes_back_from_its_text_with_the_same_hash() -> None:
    again = from_json(TEXT)
    assert again == PROGRAM
    assert again.digest == PROGRAM.digest


def test_the_hash_changes_with_any_part_of_the_program() -> None:
    nodes = (*PROGRAM.nodes[:-1], replace(PROGRAM.nodes[-1], bound=17.0))
    others = [
        replace(PROGRAM, nodes=nodes),
        replace(PROGRAM, answer="class"),
        replace(PROGRAM, model_version="1" * 32),
        replace(PROGRAM, mean=(0.4,)),
        replace(PROGRAM, normalisation="film", mean=(), std=()),
    ]
    assert len({PROGRAM.digest, *(p.digest for p in others)}) == 6


def test_the_shapes_are_those_of_torch() -> None:
    import torch
    from torch import nn

    for side, kernel, stride, padding, dilation in [
        (28, 3, 2, 1, 1),
        (33, 7, 2, 3, 1),
        (17, 3, 1, 2, 2),
    ]:
        layer = nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups=2)
        expected = tuple(layer(torch.zeros(1, 4, side, side)).shape[1:])
        assert Conv2d(kernel, stride, padding, dilation, 2, 6).shape((4, side, side)) == expected
        pool = nn.MaxPool2d(kernel, stride, kernel // 2)
        expected = tuple(pool(torch.zeros(1, 4, side, side)).shape[1:])
        assert MaxPool2d(kernel, stride, kernel // 2).shape((4, side, side)) == expected


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("nodes", 1, "op", "kind"), "exec", "operation 'exec' is unknown"),
        (("nodes", 1, "shape"), [4, 12, 13], r"gives \(4, 12, 12\)"),
        (("nodes", 1, "inputs"), [1], "earlier nodes"),
        (("nodes", 1, "inputs"), [True], "expected int, found bool"),
        (("nodes", 1, "inputs"), [-1], "earlier nodes"),
        (("nodes", 1, "op", "out"), 1 << 40, "out 1099511627776"),
        (("nodes", 1, "op", "stride"), 0, "stride 0"),
        (("nodes", 1, "op", "groups"), 0, "groups 0"),
        (("nodes", 1, "op", "extra"), 1, "key 'extra'"),
        (("nodes", 1, "name"), "../../x", "node name"),
        (("nodes", 2, "name"), "n1", "one name"),
        (("nodes", 1, "bound"), 1e300, "bound"),
        (("nodes", 1, "bound"), 0.0, "bound"),
        (("nodes", 1, "bound"), 16, "expected float"),
        (("nodes", 6, "inputs"), [3, 3], "nothing uses it"),
        (("nodes", 0, "op", "height"), 2049, "height 2049"),
        (("nodes",), [], "0 nodes"),
        (("classes",), ["a", "a", "b"], "one name"),
        (("classes",), ["a", "b"], "for 2 classes"),
        (("answer",), "everything", "answer 'everything'"),
        (("model_version",), "0", "model_version"),
        (("fraction_bits",), 60, "fraction_bits 60"),
        (("std",), [0.0], "out of range"),
        (("normalisation",), "batch", "normalisation 'batch'"),
        (("normalisation",), "film", "film normalisation takes 0"),
        (("version",), 1, "version 1"),
    ],
)
def test_a_hostile_program_is_refused_with_cause_and_remedy(
    path: tuple[Any, ...], value: Any, message: str
) -> None:
    raw = json.loads(TEXT)
    at = raw
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(PeerError, match=f"{message}.*; both sides"):
        from_json(canonical(raw))


def test_a_program_that_would_fill_the_memory_is_refused_before_anything_is_allocated() -> None:
    with pytest.raises(ValueError, match="over 16777216 values"):
        programs.program_of([(Input(1, 2048, 2048), ()), (Conv2d(1, 1, 0, 1, 1, 64), (0,))])
    wide = [(Input(16, 1000, 1000), ()), *[(ReLU(), (i,)) for i in range(20)]]
    with pytest.raises(ValueError, match="values a film in all"):
        programs.program_of([*wide, (Flatten(), (20,)), (Linear(2), (21,))])


def test_only_the_canonical_text_is_taken() -> None:
    pretty = json.dumps(json.loads(TEXT), indent=1).encode()
    for text in (pretty, TEXT + b"\n", TEXT.replace(b'"version":2', b'"version":2,"version":2')):
        with pytest.raises(PeerError, match="canonical"):
            from_json(text)


@pytest.mark.parametrize(
    "text",
    [b"", b"[" * 200_000, b"nan", b"{}", b"[]", b"\xff", b'{"nodes":' + b"9" * 9000 + b"}"],
)
def test_text_that_is_no_program_is_refused(text: bytes) -> None:
    with pytest.raises(PeerError, match="program refused"):
        from_json(text)


def test_a_program_over_the_size_limit_is_not_even_parsed() -> None:
    with pytest.raises(PeerError, match="the limit is"):
        from_json(b" " * (MAX_BYTES + 1))


@given(st.integers(0, len(TEXT) - 1), st.integers(1, 255))
def test_any_flipped_byte_gives_another_program_or_a_refusal(position: int, flip: int) -> None:
    text = bytearray(TEXT)
    text[position] ^= flip
    try:
        program = from_json(bytes(text))
    except PeerError:
        return
    assert program.digest != PROGRAM.digest
    assert to_json(program) == bytes(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children),
    max_leaves=5,
)


@given(st.sampled_from(sorted(json.loads(TEXT))), JSON)
def test_a_foreign_value_under_any_key_is_refused_and_never_a_crash(key: str, value: Any) -> None:
    raw = json.loads(TEXT)
    changed = raw[key] != value
    raw[key] = value
    try:
        program = from_json(canonical(raw))
    except PeerError:
        return
    assert isinstance(program, Program)
    assert (program.digest != PROGRAM.digest) == changed


def test_weights_of_other_names_shapes_types_or_size_are_refused() -> None:
    weights = programs.random_weights(PROGRAM)
    check_weights(PROGRAM, weights)
    name = "n1.weight"
    huge = weights[name].copy()
    huge[0, 0, 0, 0] = 1 << 62
    for wrong in (
        {k: v for k, v in weights.items() if k != name},
        weights | {"more.bias": weights[name]},
        weights | {name: weights[name].astype(np.int32)},
        weights | {name: weights[name][:, :, :2]},
        weights | {name: huge},
    ):
        with pytest.raises(ValueError, match=r"n1\.weight|more\.bias"):
            check_weights(PROGRAM, wrong)
