from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from primia.errors import ConfigError, DataError, PeerError
from primia.inference.correlations import Corrections
from primia.inference.dealing import Noise, deal
from primia.inference.layout import layout
from primia.inference.operations import (
    Add,
    Affine,
    AvgPool2d,
    Conv2d,
    Flatten,
    GroupNorm,
    Input,
    Linear,
    MaxPool2d,
    Op,
    ReLU,
    Tanh,
)
from primia.inference.ops.rectify import Profile
from primia.inference.parties import data_party, model_party, prepare_products
from primia.inference.prg import Prg
from primia.inference.program import Integers, Program
from primia.inference.weighted import mask_weights
from tests.inference.pair import drive, predict, run_program, seeds
from tests.inference.plain import plain_values
from tests.inference.programs import program_of, random_weights, residual_program

NORM = GroupNorm(2, 1e-5, 2**-12, 2.0**8)
TANH_NET = [
    (Input(3, 11, 13), ()),
    (Conv2d(3, 1, 1, 1, 1, 4), (0,)),
    (MaxPool2d(2, 2, 0), (1,)),
    (Tanh(), (2,)),
    (Conv2d(3, 1, 2, 2, 2, 6), (3,)),
    (Tanh(), (4,)),
    (AvgPool2d(3, 2, 1), (5,)),
    (Flatten(), (6,)),
    (Linear(4), (7,)),
]
# Every value that is wide where a narrow one is needed, and one that two layers take.
WIDE_NET = [
    (Input(1, 9, 9), ()),
    (Conv2d(3, 1, 1, 1, 1, 4), (0,)),
    (Affine(), (1,)),
    (Conv2d(1, 1, 0, 1, 1, 4), (2,)),
    (Add(), (3, 2)),
    (NORM, (4,)),
    (AvgPool2d(2, 2, 0), (5,)),
    (Conv2d(3, 1, 1, 1, 1, 4), (6,)),
    (Conv2d(1, 1, 0, 1, 1, 4), (6,)),
    (Add(), (7, 8)),
    (MaxPool2d(2, 2, 0), (9,)),
    (Flatten(), (10,)),
    (NORM, (11,)),
    (Linear(5), (12,)),
    (ReLU(), (13,)),
    (NORM2 := GroupNorm(1, 1e-5, 2**-12, 2.0**8), (14,)),
]


def films(program: Program, count: int, seed: int = 0) -> Integers:
    draw = np.random.default_rng(seed)
    return np.rint(draw.normal(0, 1, (count, *program.input_shape)) * 65536).astype(np.int64)


@pytest.mark.parametrize(
    "program",
    [
        residual_program(),
        residual_program(norm=False),
        program_of(TANH_NET),
        program_of(WIDE_NET, bound=40.0),
    ],
    ids=["residual-norm", "residual", "tanh", "wide"],
)
@pytest.mark.parametrize("profile", ["lan", "wan"])
@pytest.mark.parametrize("count", [1, 3])
def test_logits_are_those_of_the_plain_network(
    program: Program, count: int, profile: Profile
) -> None:
    weights = random_weights(program, 3)
    x = films(program, count)
    wanted = plain_values(program, weights, x)
    for node, value in zip(program.nodes, wanted, strict=True):
        assert np.abs(value).max() < node.bound, node.name
    found = predict(program, weights, x, profile=profile)
    assert found.values.shape == (count, len(program.classes))
    assert np.abs(found.values - wanted[-1]).max() < 5e-3


@pytest.mark.parametrize("answer", ["class", "probabilities"])
def test_answers_are_those_of_the_plain_network(answer: str) -> None:
    program = residual_program(answer=answer)  # type: ignore[arg-type]
    weights = random_weights(program, 5)
    x = films(program, 30)
    logits = plain_values(program, weights, x)[-1]
    found = predict(program, weights, x)
    if answer == "class":
        assert found.classes == tuple(logits.argmax(axis=1))
        assert set(found.values.ravel()) == {0.0, 1.0}
    else:
        real = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert np.abs(found.values - real).max() < 0.025 + 2e-3


@st.composite
def small_programs(draw: st.DrawFn) -> Program:
    """A few layers in any order that the shapes allow, sometimes with a branch."""
    side, channels = draw(st.integers(5, 9)), draw(st.integers(1, 3))
    ops: list[tuple[Op, tuple[int, ...]]] = [(Input(channels, side, side), ())]
    for _ in range(draw(st.integers(1, 6))):
        kernel = draw(st.integers(1, 3))
        convolution = Conv2d(kernel, 1, kernel // 2, 1, 1, 4)
        op: Op = draw(
            st.sampled_from(
                [convolution, convolution, ReLU(), Tanh(), Affine(), MaxPool2d(3, 1, 1)]
                + ([AvgPool2d(2, 1, 1), AvgPool2d(3, 1, 1)] if side > 2 else [])
                + ([GroupNorm(2, 1e-3, 2**-10, 2.0**10)] if len(ops) > 1 else [])
            )
        )
        if len(ops) == 1:
            op = convolution
        ops.append((op, (len(ops) - 1,)))
        if draw(st.booleans()) and isinstance(op, ReLU | Tanh | Affine | GroupNorm):
            ops.append((Add(), (len(ops) - 1, len(ops) - 2)))
    ops.append((Flatten(), (len(ops) - 1,)))
    ops.append((Linear(3), (len(ops) - 1,)))
    return program_of(ops, bound=60.0)


@settings(max_examples=40)
@given(
    program=small_programs(), seed=st.integers(0, 99), profile=st.sampled_from(get_args(Profile))
)
def test_any_small_program_answers_as_the_plain_network(
    program: Program, seed: int, profile: Profile
) -> None:
    weights = random_weights(program, seed)
    x = films(program, 2, seed)
    wanted = plain_values(program, weights, x)
    for node, value, source in zip(program.nodes, wanted, [None, *wanted], strict=False):
        assume(np.abs(value).max() < node.bound)
        if isinstance(node.op, GroupNorm) and source is not None:  # a flat group has no scale
            groups = source.reshape(len(x), node.op.groups, -1)
            assume(groups.var(axis=2).min() > 2**-6)
    found = predict(program, weights, x, seed, profile)
    assert np.abs(found.values - wanted[-1]).max() < 2e-2


def test_products_made_before_the_film_give_the_same_messages() -> None:
    program = residual_program()
    weights = random_weights(program)
    x = films(program, 2)
    mask_seed, seed0, seed1 = seeds(0)
    given = dict(mask_weights(program, weights, mask_seed))
    ready = Corrections(prepare_products(program, given, seed0, 2))
    corrections = Corrections(deal(program, mask_seed, seed0, seed1, 2))
    light = {name: v for name, v in given.items() if name == "n5.weight"}  # the norm's
    run = drive(
        data_party(program, light, seed0, x, ready),
        model_party(program, weights, corrections, seed1, 2),
    )
    ready.finish()
    assert run.sent == run_program(program, weights, x).sent


def test_the_wide_profile_takes_fewer_messages() -> None:
    program = residual_program(norm=False)
    weights = random_weights(program)
    sent = [
        run_program(program, weights, films(program, 1), 0, profile).sent
        for profile in ("lan", "wan")
    ]
    comparisons = 4 + 3  # of max pooling and the ReLUs: one message less for each
    assert [len(lan) - len(wan) for lan, wan in zip(*sent, strict=True)] == [comparisons] * 2


def test_the_dealer_deals_the_same_session_again_for_a_check() -> None:
    program = residual_program()
    assert list(deal(program, *seeds(1))) == list(deal(program, *seeds(1)))


def test_the_dealers_noise_is_on_the_logits_and_in_nobodys_seed() -> None:
    program = residual_program()
    weights = random_weights(program)
    x = films(program, 1).repeat(400, axis=0)
    mask_seed, seed0, seed1 = seeds(0)
    given = dict(mask_weights(program, weights, mask_seed))
    found = []
    for noise in (None, Noise(0.5, b"n" * 32), Noise(0.5, b"k" * 32)):
        corrections = Corrections(deal(program, mask_seed, seed0, seed1, len(x), noise=noise))
        run = drive(
            data_party(program, given, seed0, x),
            model_party(program, weights, corrections, seed1, len(x)),
        )
        found.append(run.results[0].values)
    added = found[1] - found[0]
    assert 0.45 < added.std() < 0.55  # 1200 draws: five standard errors
    assert abs(added.mean()) < 0.075
    assert np.abs(found[2] - found[1]).min() > 0


def test_the_dealers_noise_is_near_gaussian_and_never_passes_six_deviations() -> None:
    drawn = Noise(2.0, b"n" * 32).draw((200_000,), 32).view(np.int64) / 2.0**32
    assert abs(drawn.mean()) < 5 * 2 / 200_000**0.5  # 5 standard errors: 6 in 10^7 by chance
    assert abs(drawn.std() / 2 - 1) < 5 / 400_000**0.5
    # Of twelve uniform numbers: kurtosis 3 - 1.2 / 12 = 2.9, standard error 0.011.
    assert abs((drawn**4).mean() / 16 - 2.9) < 0.1
    assert np.abs(drawn).max() <= 12.0


def test_the_dealers_noise_is_the_same_on_every_machine() -> None:
    drawn = Noise(0.5, bytes(range(32))).draw((4,), 32).view(np.int64)
    parts = Prg(bytes(range(32))).draw("noise", (12, 4)) >> np.uint64(48)
    plain = [(sum(int(x) for x in column) - 393210) * 2**31 >> 16 for column in parts.T]
    assert drawn.tolist() == plain


@pytest.mark.parametrize("cut", [-8, 8])
def test_corrections_of_another_length_are_refused(cut: int) -> None:
    program = residual_program()
    weights = random_weights(program)
    mask_seed, seed0, seed1 = seeds(0)
    given = dict(mask_weights(program, weights, mask_seed))
    dealt = b"".join(deal(program, mask_seed, seed0, seed1))
    dealt = dealt[:cut] if cut < 0 else dealt + bytes(cut)
    with pytest.raises(PeerError, match=r"corrections .* discard this session's material"):
        drive(
            data_party(program, given, seed0, films(program, 1)),
            model_party(program, weights, Corrections([dealt]), seed1),
        )


def test_corrections_come_in_chunks_of_any_size() -> None:
    corrections = Corrections([b"abc", b"", b"defg", b"hi"])
    assert [bytes(corrections.take(n)) for n in (2, 4, 0, 3)] == [b"ab", b"cdef", b"", b"ghi"]
    corrections.finish()


@pytest.mark.parametrize("more", [-1, 1])
def test_a_message_of_another_length_is_refused(more: int) -> None:
    program = residual_program()
    given = dict(mask_weights(program, random_weights(program), bytes(32)))
    machine = data_party(program, given, bytes(32), films(program, 1))
    step = next(machine)
    while step.expect == 0:
        step = machine.send(b"")
    with pytest.raises(PeerError, match=f"{step.expect} were due"):
        machine.send(bytes(step.expect + more))


def test_a_film_of_another_size_is_refused_before_anything_is_sent() -> None:
    program = residual_program()
    machine = data_party(program, {}, bytes(32), np.zeros((1, 1, 14, 14), np.int64))
    with pytest.raises(DataError, match="does not fit the program's input"):
        next(machine)


def test_a_layer_that_cannot_fit_is_named() -> None:
    program = residual_program()
    nodes = list(program.nodes)
    nodes[4] = replace(nodes[4], bound=2.0**16)
    with pytest.raises(ConfigError, match=r"layer n5: values up to 6.554e\+04 are too large"):
        layout(replace(program, nodes=tuple(nodes)))
