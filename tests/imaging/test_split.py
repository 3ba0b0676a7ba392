import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.errors import DataError
from primia.imaging.split import divide, patient_split

KEY = b"test key"
ids = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=60)


def held_out(names: list[str], key: bytes = KEY) -> dict[str, bool]:
    mask = patient_split(names, 0.3, key)
    return dict(zip(names, mask.tolist(), strict=True))


@given(ids)
def test_a_patient_never_stands_on_both_sides(names):
    try:
        mask = patient_split(names, 0.5, KEY)
    except DataError:
        return
    films = np.array(names)
    assert not set(films[mask]) & set(films[~mask])


def test_the_split_depends_on_no_order():
    names = [f"P{i}" for i in range(100)]
    assert held_out(names) == held_out(names[::-1])


def test_adding_or_removing_a_patient_moves_no_other():
    """Otherwise two data sets that differ in one patient would differ in several."""
    names = [f"P{i}" for i in range(100)]
    whole = held_out(names)
    for gone in names:
        rest = held_out([name for name in names if name != gone])
        assert all(whole[name] == place for name, place in rest.items())


def test_another_key_gives_another_split():
    names = [f"P{i}" for i in range(100)]
    assert held_out(names) != held_out(names, b"other key")


def test_the_share_held_out_is_the_fraction_on_average():
    # 10 000 patients at 0.2: standard deviation 0.4 %, so 2 % is five of them; keyed, so no chance.
    assert patient_split(np.arange(10_000), 0.2, KEY).mean() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(("names", "message"), [([], "0 patients"), (["one"], "too few")])
def test_too_few_patients_to_split_are_refused(names, message):
    with pytest.raises(DataError, match=message):
        patient_split(names, 0.2, KEY)


@given(st.integers(1, 8), ids)
def test_division_is_by_patient_and_even_to_one_patient(sites, names):
    patients = len(set(names))
    if patients < sites:
        with pytest.raises(DataError, match="cannot be divided"):
            divide(names, sites)
        return
    home = divide(names, sites)
    sites_of = {name: set(home[np.array(names) == name].tolist()) for name in names}
    assert all(len(s) == 1 for s in sites_of.values())
    sizes = np.bincount([next(iter(s)) for s in sites_of.values()], minlength=sites)
    assert sizes.max() - sizes.min() <= 1


def test_division_and_validation_split_do_not_follow_each_other():
    names = [f"P{i}" for i in range(3000)]
    home, mask = divide(names, 3, KEY), patient_split(names, 0.5, KEY)
    shares = [mask[home == site].mean() for site in range(3)]
    # Independent, each share has a standard deviation of 1.6 %.
    assert shares == pytest.approx([0.5] * 3, abs=0.08)
