import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.learning.batches import physical_batches

units = st.lists(st.integers(-3, 12), max_size=60)
sizes = st.integers(1, 40)


def cut(unit, size):
    return list(physical_batches(torch.tensor(unit, dtype=torch.int64), size))


@settings(deadline=None)
@given(units, sizes)
def test_every_row_is_in_one_physical_batch_once_and_no_unit_is_cut(unit, size):
    rows, where = [], {}
    for number, part in enumerate(cut(unit, size)):
        real = part.unit < part.real
        rows += part.rows[real].tolist()
        for row in part.rows[real].tolist():
            assert where.setdefault(unit[row], number) == number
    assert sorted(rows) == list(range(len(unit)))


@settings(deadline=None)
@given(units, sizes)
def test_rows_have_one_number_if_and_only_if_they_are_of_one_unit(unit, size):
    for part in cut(unit, size):
        real = part.unit < part.real
        pairs = set(zip(part.unit[real].tolist(), (unit[r] for r in part.rows[real]), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        assert {a for a, _ in pairs} == set(range(part.real))
        assert set(part.unit.tolist()) == set(range(part.units))


@settings(deadline=None)
@given(units, sizes)
def test_weights_add_up_to_one_over_a_unit_and_are_equal_within_it(unit, size):
    for part in cut(unit, size):
        assert part.weight.dtype == torch.float64
        for number in range(part.real):
            mine = part.weight[part.unit == number]
            assert float(mine.sum()) == pytest.approx(1.0, abs=1e-12)
            assert float(mine.min()) == float(mine.max()) > 0


@settings(deadline=None)
@given(units.filter(bool), sizes)
def test_padding_is_row_0_with_weight_0_each_a_unit_of_its_own(unit, size):
    for part in cut(unit, size):
        padding = part.unit >= part.real
        assert (part.rows[padding] == 0).all()
        assert (part.weight[padding] == 0).all()
        assert part.unit[padding].unique().numel() == int(padding.sum())
        assert part.rows.numel() == part.unit.numel() == part.weight.numel()


@settings(deadline=None)
@given(units.filter(bool), sizes)
def test_sizes_short_of_the_full_one_are_multiples_and_padding_less_than_one(unit, size):
    step = max(1, min(8, size // 8))
    for part in cut(unit, size):
        assert part.rows.numel() % step == 0 or part.rows.numel() >= size
        assert int((part.unit >= part.real).sum()) < step


@pytest.mark.parametrize("size", [17, 23, 31])
def test_a_physical_batch_is_never_larger_than_asked_for(size):
    assert [part.rows.numel() for part in cut(list(range(size)), size)] == [size]


@settings(deadline=None)
@given(units.filter(bool), st.integers(1, 8).map(lambda k: 8 * k))
def test_a_physical_batch_is_larger_than_asked_for_only_for_one_unit(unit, size):
    for part in cut(unit, size):
        assert part.rows.numel() <= size or part.real == 1


@settings(deadline=None)
@given(units.filter(bool), sizes)
def test_two_physical_batches_in_a_row_would_not_have_fitted_into_one(unit, size):
    real = [int((part.unit < part.real).sum()) for part in cut(unit, size)]
    first = [int((part.unit == 0).sum()) for part in cut(unit, size)]
    for held, following in zip(real, first[1:], strict=False):
        assert held + following > size


def test_a_unit_larger_than_the_physical_batch_stays_whole():
    parts = cut([1, 2, 1, 1, 1, 1, 3], 2)
    assert [part.real for part in parts] == [1, 1, 1] or [p.real for p in parts] == [1, 2]
    assert sorted(parts[0].rows.tolist()) == [0, 2, 3, 4, 5]
    assert torch.allclose(parts[0].weight, torch.full((5,), 0.2, dtype=torch.float64))


def test_no_rows_give_no_physical_batch():
    assert cut([], 8) == []


def test_the_sizes_seen_over_many_draws_are_eight_at_most():
    seen = {part.rows.numel() for n in range(1, 200) for part in cut(list(range(n)), 64)}
    assert seen == {8, 16, 24, 32, 40, 48, 56, 64}
