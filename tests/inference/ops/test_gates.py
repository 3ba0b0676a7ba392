from __future__ import annotations

from functools import reduce

import numpy as np
import pytest

from primia.inference.ops.gates import borrow, conjunction, deal_borrow, deal_conjunction, tree
from tests.inference.pair import run_op


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 5, 6, 7, 8, 12])
def test_the_borrow_of_all_blocks_comes_out(blocks: int) -> None:
    g, p = np.random.default_rng(blocks).integers(0, 1 << 64, (2, blocks, 3), np.uint64)
    run = run_op(
        lambda dealer: deal_borrow(dealer, "t", blocks, (3,)),
        lambda party, x: borrow(party, "t", list(zip(*x, strict=True))),
        np.stack([g, p]),
        xor=True,
    )
    wanted = reduce(
        lambda carry, pair: pair[0] ^ (pair[1] & carry), zip(g, p, strict=True), 0 * g[0]
    )
    assert (run.results[0] ^ run.results[1] == wanted).all()
    assert len(run.sent[0]) == len(run.sent[1]) == len(tree(blocks))


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 40])
def test_a_conjunction_is_the_and_of_all(count: int) -> None:
    draw = np.random.default_rng(count)
    bits = draw.integers(0, 1 << 64, (count, 2), np.uint64)
    bits |= draw.integers(0, 1 << 64, (count, 2), np.uint64)  # or hardly a 1 is left
    bits[:, 0] |= np.uint64(0xFF)
    run = run_op(
        lambda dealer: deal_conjunction(dealer, "t", count, (2,)),
        lambda party, x: conjunction(party, "t", list(x)),
        bits,
        xor=True,
    )
    assert (run.results[0] ^ run.results[1] == np.bitwise_and.reduce(bits)).all()


def test_up_to_six_blocks_take_one_message() -> None:
    assert [len(tree(n)) for n in (1, 2, 6, 7, 12)] == [0, 1, 1, 2, 2]
