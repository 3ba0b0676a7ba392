"""What a party sees says nothing: uniform, independent of the other's input, never the same twice.

Seeds are fixed, so a test that passes once passes always. Where a threshold is statistical, a
fresh choice of seeds would raise a false alarm once in a million tests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from primia.inference.dealing import deal
from primia.inference.operations import Conv2d, Flatten, GroupNorm, Input, Linear, MaxPool2d, ReLU
from primia.inference.ops.rectify import Profile
from primia.inference.prg import Prg
from primia.inference.program import Program
from primia.inference.weighted import mask_weights
from tests.inference.pair import run_program, seeds
from tests.inference.programs import program_of, random_weights, residual_program

FALSE_ALARM = 1e-6
LIMIT = float(chi2.isf(FALSE_ALARM, 255))


def uneven(data: bytes) -> float:
    """Chi-square of the bytes against the uniform distribution, 255 degrees of freedom."""
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    expected = len(data) / 256
    return float(((counts - expected) ** 2 / expected).sum())


def apart(one: bytes, other: bytes) -> float:
    """Chi-square of two samples of bytes against one common distribution."""
    a, b = (np.bincount(np.frombuffer(x, np.uint8), minlength=256) for x in (one, other))
    ratio = np.sqrt(len(other) / len(one))
    return float(((ratio * a - b / ratio) ** 2 / np.maximum(a + b, 1)).sum())


def film(program: Program, kind: str, count: int = 1) -> Any:
    shape = (count, *program.input_shape)
    if kind == "black":
        return np.zeros(shape, np.int64)
    return np.rint(np.random.default_rng(9).normal(0, 1, shape) * 65536).astype(np.int64)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("kind", ["black", "noise"])
@pytest.mark.parametrize("profile", ["lan", "wan"])
def test_all_that_a_party_receives_is_uniform(norm: bool, kind: str, profile: Profile) -> None:
    program = residual_program(norm=norm, answer="class")
    weights = random_weights(program)
    run = run_program(program, weights, film(program, kind, 4), 0, profile)
    for sent in run.sent:
        data = b"".join(sent)
        assert len(data) > 40_000
        assert uneven(data) < LIMIT


def test_each_message_by_itself_is_uniform_over_sessions() -> None:
    """Message by message, over 40 sessions of one film and one model."""
    program = residual_program(8, answer="class")
    weights = random_weights(program)
    x = film(program, "black")
    runs = [run_program(program, weights, x, number) for number in range(40)]
    for side in (0, 1):
        for messages in zip(*(run.sent[side] for run in runs), strict=True):
            data = b"".join(messages)
            limit = float(chi2.isf(FALSE_ALARM / 100, 255))  # about 100 messages are looked at
            if len(data) >= 5 * 256:
                assert uneven(data) < limit


@pytest.mark.parametrize("profile", ["lan", "wan"])
def test_corrections_are_uniform_and_know_no_input(profile: Profile) -> None:
    program = residual_program()
    mask_seed, seed0, seed1 = seeds(3)
    dealt = b"".join(deal(program, mask_seed, seed0, seed1, 2, profile=profile))
    assert uneven(dealt) < LIMIT
    # Of the data party's seed alone they would be a stream; the same without it, another one.
    other = b"".join(deal(program, mask_seed, seeds(4)[1], seed1, 2, profile=profile))
    same = np.frombuffer(dealt, np.uint8) == np.frombuffer(other, np.uint8)
    assert abs(same.mean() - 1 / 256) < 5 * np.sqrt(1 / 256 / len(dealt))


def test_masked_weights_are_uniform_and_new_with_every_mask() -> None:
    program = residual_program()
    weights = {n: np.zeros_like(w) for n, w in random_weights(program).items()}
    sent = [dict(mask_weights(program, weights, bytes([i]) * 32)) for i in range(40)]
    assert uneven(b"".join(v.tobytes() for given in sent for v in given.values())) < LIMIT
    assert all((sent[0][name] != sent[1][name]).all() for name in sent[0])


def test_what_the_model_party_sees_has_one_distribution_for_any_film() -> None:
    program = residual_program(8, answer="class")
    weights = random_weights(program)
    seen = {}
    for i, kind in enumerate(("black", "noise")):
        x = film(program, kind)
        runs = [run_program(program, weights, x, 100 * i + n) for n in range(30)]
        seen[kind] = [b"".join(m) for m in zip(*(r.sent[0] for r in runs), strict=True)]
    for black, noise in zip(seen["black"], seen["noise"], strict=True):
        if len(black) >= 5 * 256:
            assert apart(black, noise) < float(chi2.isf(FALSE_ALARM / 100, 255))


def test_what_the_data_party_sees_has_one_distribution_for_any_weights() -> None:
    """All but its answer, which both networks give alike here."""
    program = residual_program(8, answer="class")
    seen = []
    for i, weights in enumerate((random_weights(program, 1), random_weights(program, 2))):
        x = film(program, "noise")
        runs = [run_program(program, weights, x, 100 * i + n) for n in range(30)]
        seen.append([b"".join(m) for m in zip(*(r.sent[1][:-1] for r in runs), strict=True)])
    for one, other in zip(*seen, strict=True):
        if len(one) >= 5 * 256:
            assert apart(one, other) < float(chi2.isf(FALSE_ALARM / 100, 255))


def test_with_all_seeds_fixed_the_first_message_moves_by_the_film_alone() -> None:
    """The mask is all that hides the film, so a seed that serves twice shows the difference."""
    program = residual_program()
    weights = random_weights(program)
    black, noise = film(program, "black"), film(program, "noise")
    first = [
        np.frombuffer(run_program(program, weights, x).sent[0][0], np.int64).reshape(x.shape)
        for x in (black, noise)
    ]
    assert (first[1] - first[0] == noise - black).all()
    assert not (first[0] == black).any()


def test_opened_values_hide_the_weights_behind_the_model_partys_own_mask() -> None:
    """With the data party's seed and view, other masks of the model party give another message."""
    program = program_of(
        [
            (Input(1, 8, 8), ()),
            (Conv2d(3, 1, 1, 1, 1, 2), (0,)),
            (ReLU(), (1,)),
            (Flatten(), (2,)),
            (Linear(2), (3,)),
        ],
        answer="class",
    )
    weights = random_weights(program)
    x = film(program, "black")
    runs = [run_program(program, weights, x, number) for number in range(60)]
    opened = b"".join(run.sent[1][0] for run in runs)
    assert uneven(opened) < LIMIT


def test_two_queries_of_one_film_share_no_bytes() -> None:
    program = residual_program()
    weights = random_weights(program)
    x = film(program, "noise")
    runs = [run_program(program, weights, x, number) for number in (1, 2)]
    for side in (0, 1):
        words: list[set[bytes]] = []
        total = same = 0
        for one, other in zip(*(run.sent[side] for run in runs), strict=True):
            a, b = np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8)
            total += a.size
            same += int((a == b).sum())
        for run in runs:
            data = b"".join(m for m in run.sent[side] if len(m) % 8 == 0)
            words.append({data[i : i + 8] for i in range(0, len(data), 8)})
        assert not words[0] & words[1]  # 2^64 words: a chance meeting has odds of 1 in 10^11
        assert abs(same / total - 1 / 256) < 5 * np.sqrt(1 / 256 / total)


@pytest.mark.parametrize("profile", ["lan", "wan"])
def test_no_stream_serves_two_tensors(monkeypatch: pytest.MonkeyPatch, profile: Profile) -> None:
    """Over dealer and both parties: one stream to one purpose, and the right two hold it."""
    drawn: dict[bytes, set[str]] = {}
    draw = Prg.draw

    def record(prg: Prg, label: str, shape: Any, dtype: Any = np.uint64) -> Any:
        found = draw(prg, label, shape, dtype)
        if found.nbytes >= 16:
            drawn.setdefault(found.tobytes()[:16], set()).add(label)
        return found

    monkeypatch.setattr(Prg, "draw", record)
    program = program_of(
        [
            (Input(1, 12, 12), ()),
            (Conv2d(3, 1, 1, 1, 1, 4), (0,)),
            (MaxPool2d(3, 2, 1), (1,)),
            (GroupNorm(2, 1e-5, 2**-10, 2.0**10), (2,)),
            (ReLU(), (3,)),
            (Flatten(), (4,)),
            (Linear(3), (5,)),
        ],
        answer="probabilities",
    )
    run_program(program, random_weights(program), film(program, "noise", 2), 0, profile)
    assert len(drawn) > 60
    assert all(len(labels) == 1 for labels in drawn.values())


def test_the_model_party_ends_without_an_answer() -> None:
    program = residual_program(answer="probabilities")
    run = run_program(program, random_weights(program), film(program, "noise"))
    assert run.results[1] is None
    assert run.results[0].values.shape == (1, 3)
