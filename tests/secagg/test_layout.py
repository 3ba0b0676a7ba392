from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.secagg.layout import Layout, Vector

VECTORS = st.lists(
    st.builds(
        Vector,
        name=st.text(min_size=1, max_size=5),
        length=st.integers(1, 20),
        bits=st.sampled_from([24, 32]),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda vector: vector.name,
)


@settings(deadline=None)
@given(VECTORS)
def test_the_parts_are_views_that_cover_all_words_in_order(vectors):
    layout = Layout(tuple(vectors))
    words = np.arange(layout.length, dtype=np.uint32)
    parts = layout.split(words)
    assert list(parts) == [v.name for v in vectors]
    assert [p.size for p in parts.values()] == [v.length for v in vectors]
    assert np.array_equal(np.concatenate(list(parts.values())), words)
    for name, part in parts.items():
        assert np.shares_memory(part, words)
        assert np.array_equal(words[layout.slice(name)], part)


def test_a_24_bit_vector_takes_three_quarters_of_the_bytes():
    wide, narrow = Vector("v", 1000), Vector("v", 1000, bits=24)
    assert (wide.wire_bytes, narrow.wire_bytes) == (4000, 3000)
    assert Layout((narrow, Vector("w", 2))).wire_bytes == 3008


def test_an_impossible_layout_is_refused():
    for vectors in ((), (Vector("a", 1), Vector("a", 2))):
        with pytest.raises(ValueError, match="vectors"):
            Layout(vectors)
    for length, bits in ((0, 32), (1, 16), (1, 33)):
        with pytest.raises(ValueError, match="vector 'a'"):
            Vector("a", length, bits)


def test_words_that_do_not_fit_are_refused():
    layout = Layout((Vector("update", 3, 24), Vector("weight", 1)))
    for words in (np.zeros(5, np.uint32), np.zeros(4, np.int32), np.zeros((4, 1), np.uint32)):
        with pytest.raises(ValueError, match="words"):
            layout.split(words)
    with pytest.raises(KeyError):
        layout.slice("metrics")
