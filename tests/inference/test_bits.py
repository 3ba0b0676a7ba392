from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.inference.bits import block_borrow, pack, products_of, unpack, words

ONES = np.uint64((1 << 64) - 1)


@given(
    values=st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=200),
    low=st.integers(0, 40),
    count=st.integers(1, 24),
)
def test_planes_hold_the_bits_of_the_values(values: list[int], low: int, count: int) -> None:
    planes = pack(np.array(values, np.uint64), low, count)
    assert planes.shape == (count, words(len(values)))
    for i in range(count):
        assert list(unpack(planes[i], len(values))) == [v >> (low + i) & 1 for v in values]


def test_planes_keep_the_leading_dimensions() -> None:
    values = np.arange(6 * 70, dtype=np.uint64).reshape(2, 3, 70)
    planes = pack(values, 1, 3)
    assert planes.shape == (3, 2, 3, 2)
    assert (unpack(planes[2], 70) == (values >> np.uint64(3)) % 2).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_shares_of_a_block_add_up_to_its_borrow(bits: int) -> None:
    draw = np.random.default_rng(bits)
    z, r = (a.ravel().astype(np.uint64) for a in np.mgrid[: 1 << bits, : 1 << bits])
    products = products_of(pack(r, 0, bits))
    assert len(products) == (1 << bits) - 1
    share = draw.integers(0, 1 << 64, products.shape, np.uint64)
    not_z = pack(~z, 0, bits)
    g0, p0 = block_borrow(products ^ share, not_z, ONES)
    g1, p1 = block_borrow(share, not_z, np.uint64(0))
    assert (unpack(g0 ^ g1, z.size) == (z < r)).all()
    assert (unpack(p0 ^ p1, z.size) == (z == r)).all()
