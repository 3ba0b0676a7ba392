from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.secagg.layout import Layout

SEGMENTS = st.lists(
    st.tuples(st.text(min_size=1, max_size=5), st.integers(1, 20)),
    min_size=1,
    max_size=6,
    unique_by=lambda segment: segment[0],
)


@settings(deadline=None)
@given(SEGMENTS)
def test_what_is_concatenated_splits_into_the_same_parts(segments):
    layout = Layout(tuple(segments))
    parts = {
        name: np.arange(length, dtype=np.uint32) + 100 * i
        for i, (name, length) in enumerate(segments)
    }
    whole = layout.concatenate(parts)
    assert whole.shape == (layout.length,)
    again = layout.split(whole)
    assert list(again) == [name for name, _ in segments]
    for name, part in parts.items():
        assert np.array_equal(again[name], part)
        assert np.array_equal(whole[layout.slice(name)], part)


@pytest.mark.parametrize("segments", [(), (("a", 1), ("a", 2)), (("a", 0),)])
def test_an_impossible_layout_is_refused(segments):
    with pytest.raises(ValueError, match="segment"):
        Layout(segments)


def test_parts_that_do_not_fit_are_refused():
    layout = Layout((("update", 3), ("weight", 1)))
    update, weight = np.zeros(3, np.uint32), np.zeros(1, np.uint32)
    for parts in (
        {"update": update},
        {"update": update, "weight": weight, "extra": weight},
        {"update": weight, "weight": weight},
        {"update": update.astype(np.int32), "weight": weight},
    ):
        with pytest.raises(ValueError, match=r"update|parts"):
            layout.concatenate(parts)
    with pytest.raises(ValueError, match="vector"):
        layout.split(np.zeros(5, np.uint32))
    with pytest.raises(KeyError):
        layout.slice("metrics")
