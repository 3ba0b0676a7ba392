import os

import numpy as np
import pytest
from film_files import CLASSES, film
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.config.site import DataSource
from primia.imaging.manifest import SiteKey, difference, freeze
from primia.imaging.readers import load_cohort

SIZE = 28
KEY = SiteKey(bytes(range(32)))


def write(path, labels, patients, films=None):
    numbers = range(len(labels)) if films is None else films
    pixels = np.stack([film(i, height=SIZE, width=SIZE) for i in numbers])
    arrays = {"images": pixels, "labels": np.array(labels, int)}
    if patients is not None:
        arrays["patient_ids"] = np.array(patients)
    np.savez(path, **arrays)
    return DataSource(kind="npz", path=path, every_film_its_own_patient=patients is None)


def manifest(source, *, key=KEY, **more):
    return load_cohort(
        source, classes=CLASSES, input_size=SIZE, min_patients=2, site_key=key, **more
    ).manifest


LABELS = [i % 3 for i in range(60)]
PATIENTS = [f"P{i // 2}" for i in range(60)]


@pytest.fixture
def first(tmp_path):
    return manifest(write(tmp_path / "first.npz", LABELS, PATIENTS))


def test_the_order_of_the_films_does_not_matter(tmp_path, first):
    order = np.random.default_rng(1).permutation(60)
    again = write(
        tmp_path / "again.npz", [LABELS[i] for i in order], [PATIENTS[i] for i in order], order
    )
    assert manifest(again) == first


def _one_film_more(labels, patients, films):
    return [*labels, 0], [*patients, "P0"], [*films, 60]


def _one_film_less(labels, patients, films):
    return labels[:-1], patients[:-1], films[:-1]


def _another_label(labels, patients, films):
    return [(labels[0] + 1) % 3, *labels[1:]], patients, films


def _another_patient(labels, patients, films):
    return labels, ["P1", *patients[1:]], films


def _another_film(labels, patients, films):
    return labels, patients, [99, *films[1:]]


@pytest.mark.parametrize(
    "change",
    [_one_film_more, _one_film_less, _another_label, _another_patient, _another_film],
)
def test_any_change_to_the_cohort_changes_the_digest_and_is_told_apart(tmp_path, first, change):
    labels, patients, films = change(LABELS, PATIENTS, list(range(60)))
    changed = manifest(write(tmp_path / "changed.npz", labels, patients, films))
    assert changed.digest != first.digest
    assert difference(first.to_bytes(), changed) != difference(first.to_bytes(), first)


def test_another_split_is_another_cohort(tmp_path, first):
    source = write(tmp_path / "again.npz", LABELS, PATIENTS)
    assert manifest(source, split_key=b"other").digest != first.digest


def test_without_the_key_the_digest_and_the_fingerprints_say_nothing(tmp_path, first):
    other = manifest(write(tmp_path / "again.npz", LABELS, PATIENTS), key=SiteKey(os.urandom(32)))
    assert other.digest != first.digest
    assert not {e.film for e in other.entries} & {e.film for e in first.entries}
    assert not {e.patient for e in other.entries} & {e.patient for e in first.entries}
    assert b"P1" not in first.to_bytes()


def test_only_training_patients_are_named_as_trained_on(first):
    trained = first.trained()
    held_out = {e.patient for e in first.entries if e.part == "validation"}
    assert trained
    assert held_out
    assert not trained.keys() & held_out
    assert sum(map(len, trained.values())) == sum(e.part == "train" for e in first.entries)


def test_where_no_patient_ids_exist_the_film_itself_is_the_patient(tmp_path):
    order = list(reversed(range(60)))
    here = manifest(write(tmp_path / "here.npz", LABELS, None))
    there = manifest(write(tmp_path / "there.npz", [LABELS[i] for i in order], None, order))
    assert {(e.film, e.patient) for e in here.entries} == {
        (e.film, e.patient) for e in there.entries
    }


def test_blanks_around_a_patient_id_do_not_make_another_patient():
    assert KEY.patient(" 4711 ") == KEY.patient("4711") != KEY.patient("4712")


def test_one_text_has_other_fingerprints_as_patient_and_as_film():
    assert KEY.patient("x") != KEY.film(b"x")


@pytest.mark.parametrize("length", [0, 16, 33])
def test_a_key_of_another_length_is_refused(length):
    with pytest.raises(ValueError, match="32 bytes"):
        SiteKey(bytes(length))


ROWS = st.lists(
    st.tuples(
        st.binary(min_size=16, max_size=16),
        st.binary(min_size=16, max_size=16),
        st.sampled_from(CLASSES),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda row: row[0],
)


@given(rows=ROWS, data=st.data())
@settings(max_examples=60, deadline=None)
def test_two_cohorts_share_a_digest_exactly_when_they_are_the_same(rows, data):
    def made(rows):
        films, patients, labels, out = zip(*rows, strict=True)
        return freeze(list(zip(films, patients, strict=True)), labels, np.array(out), KEY)

    other = data.draw(st.one_of(st.permutations(rows), ROWS))
    assert (made(rows).digest == made(other).digest) == (sorted(rows) == sorted(other))
