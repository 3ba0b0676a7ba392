"""Both machines driven against each other in memory, with what each received."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from primia.inference.correlations import Corrections, DataSource, Dealer, ModelSource
from primia.inference.dealing import deal
from primia.inference.messages import Prediction, Step
from primia.inference.ops.rectify import Profile
from primia.inference.parties import data_party, model_party
from primia.inference.program import Integers, Program, Weights
from primia.inference.weighted import mask_weights

Machine = Generator[Step, Any, Any]


@dataclass
class Exchange:
    """What two machines returned, and each one's messages in the order of sending."""

    results: list[Any] = field(default_factory=lambda: [None, None])
    sent: tuple[list[bytes], list[bytes]] = field(default_factory=lambda: ([], []))


def drive(*machines: Machine) -> Exchange:
    """Run two machines to their ends; a message waits until the other asks for it."""
    run = Exchange()
    steps: list[Step | None] = [None, None]
    taken = [0, 0]

    def resume(i: int, value: bytes | None) -> None:
        try:
            step = machines[i].send(value)
        except StopIteration as end:
            run.results[i] = end.value
            steps[i] = None
            return
        if step.send is not None:
            run.sent[i].append(bytes(step.send))
        steps[i] = step

    for i in (0, 1):
        resume(i, None)
    while any(steps):
        moved = False
        for i in (0, 1):
            step = steps[i]
            if step is None:
                continue
            if step.expect == 0:
                resume(i, b"")
                moved = True
            elif taken[i] < len(run.sent[1 - i]):
                message = run.sent[1 - i][taken[i]]
                taken[i] += 1
                resume(i, message)
                moved = True
        assert moved, "both machines wait for each other"
    for i in (0, 1):
        assert taken[i] == len(run.sent[1 - i]), "a message was never asked for"
    return run


def seeds(number: int) -> tuple[bytes, bytes, bytes]:
    """(mask seed, data party's, model party's) of a test's session."""
    draw = np.random.default_rng(number)
    return draw.bytes(32), draw.bytes(32), draw.bytes(32)


def predict(
    program: Program,
    weights: Weights,
    film: Integers,
    number: int = 0,
    profile: Profile = "lan",
) -> Prediction:
    """The whole protocol in memory."""
    found: Prediction = run_program(program, weights, film, number, profile).results[0]
    return found


def run_program(
    program: Program,
    weights: Weights,
    film: Integers,
    number: int = 0,
    profile: Profile = "lan",
) -> Exchange:
    """The whole protocol in memory, with its messages."""
    mask_seed, seed0, seed1 = seeds(number)
    films = len(film)
    given = dict(mask_weights(program, weights, mask_seed))
    corrections = Corrections(deal(program, mask_seed, seed0, seed1, films, profile=profile))
    return drive(
        data_party(program, given, seed0, film, profile=profile),
        model_party(program, weights, corrections, seed1, films, profile=profile),
    )


def run_op(
    deal_op: Callable[[Dealer], Any],
    op: Callable[[Any, Any], Machine],
    value: Any,
    number: int = 0,
    *,
    xor: bool = False,
) -> Exchange:
    """One operation on shares of `value`: deal_op(dealer), op(party, share)."""
    _, seed0, seed1 = seeds(number)
    dealer = Dealer(seed0, seed1)
    deal_op(dealer)
    corrections = Corrections(dealer.corrections())
    value = value.view(np.uint64)
    share = np.random.default_rng(number + 1).integers(0, 1 << 64, value.shape, np.uint64)
    rest = value ^ share if xor else value - share
    run = drive(op(DataSource(seed0), rest), op(ModelSource(seed1, corrections), share))
    corrections.finish()
    return run


def total(run: Exchange) -> Any:
    """The value that the two results share, as signed integers."""
    return (run.results[0] + run.results[1]).view(np.int64)
