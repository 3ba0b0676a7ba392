"""Fault row D08 (0 patients, 1 patient, one class only), and what a cohort promises."""

import subprocess
import sys

import numpy as np
import pytest
from film_files import CLASSES, film, listed_films, real, write_csv

from primia.config.site import DataSource
from primia.errors import DataError
from primia.imaging import load_cohort, synthesise

SIZE = 28


def npz(path, labels, patients):
    pixels = np.stack([film(i, height=SIZE, width=SIZE) for i in range(len(labels))])
    np.savez(path, images=pixels, labels=np.array(labels, int), patient_ids=np.array(patients))
    return DataSource(kind="npz", path=path)


def load(source, least=2, **more):
    return load_cohort(source, classes=CLASSES, input_size=SIZE, min_patients=least, **more)


@pytest.fixture
def source(tmp_path):
    labels = [i % 3 for i in range(120)]
    return npz(tmp_path / "a.npz", labels, [f"P{i // 2}" for i in range(120)])


def owners(source, films):
    """Patients of a part, recovered from the pixels."""
    arrays = np.load(source.path, allow_pickle=False)
    by_film = {
        p.tobytes(): name for p, name in zip(arrays["images"], arrays["patient_ids"], strict=True)
    }
    return {str(by_film[p.tobytes()]) for p in films.pixels}


def test_no_patient_trains_and_validates(source):
    cohort = load(source)
    train, validation = owners(source, cohort.train), owners(source, cohort.validation)
    assert not train & validation
    assert len(train) + len(validation) == 60
    assert (cohort.train.patient_count, cohort.validation.patient_count) == (
        len(train), len(validation),
    )  # fmt: skip
    assert cohort.warnings == ()


def test_a_restart_gives_the_same_cohort_and_another_key_another(source):
    first, again = load(source), load(source)
    assert np.array_equal(first.train.pixels, again.train.pixels)
    assert np.array_equal(first.train.patients, again.train.patients)
    assert owners(source, load(source, split_key=b"other").train) != owners(source, first.train)


@pytest.mark.parametrize(
    ("labels", "patients", "least", "message"),
    [
        ([], [], 20, "0 patients to train on .*at least 20"),
        ([0, 1, 2], ["P"] * 3, 20, "1 patients to train on .*at least 20"),
        ([0, 1, 2], ["P"] * 3, 1, "1 patients are too few to hold out"),
        ([i % 3 for i in range(22)], list(range(22)), 20, r"\(of 22\).*at least 20"),
        ([1] * 60, list(range(60)), 20, "all training films are of class bacterial; at least 2"),
    ],
)
def test_too_few_patients_or_classes_are_refused_and_the_minimum_is_stated(
    tmp_path, labels, patients, least, message
):
    path = tmp_path / "a.npz"
    if labels:
        npz(path, labels, patients)
    else:
        empty = np.zeros((0, SIZE, SIZE), np.uint8)
        np.savez(path, images=empty, labels=np.zeros(0, int), patient_ids=np.zeros(0, int))
    with pytest.raises(DataError, match=message):
        load(DataSource(kind="npz", path=path), least)


@pytest.mark.parametrize("kind", ["csv", "folder"])
def test_a_source_without_films_is_refused_and_the_minimum_is_stated(tmp_path, kind):
    path = tmp_path
    if kind == "csv":
        path = write_csv(tmp_path / "films.csv", ("file", "label", "patient"), [])
    with pytest.raises(DataError, match=r"0 patients.*at least 20 patients"):
        load(DataSource(kind=kind, path=path), 20)


def test_negatives_among_the_films_are_reported(tmp_path):
    films = synthesise(40, size=SIZE, seed=1)
    pixels = films.pixels.copy()
    path = tmp_path / "a.npz"
    for change, expected in ((0, 0), (3, 3)):
        pixels[:change] = 255 - pixels[:change]
        np.savez(path, images=pixels, labels=films.labels, patient_ids=films.patients)
        warnings = load(DataSource(kind="npz", path=path)).warnings
        found = [w for w in warnings if "reverse of the others" in w]
        assert len(found) == bool(expected)
        assert not expected or found[0].startswith(f"{expected} films")


def test_one_film_under_two_patients_is_reported(tmp_path):
    source = npz(tmp_path / "a.npz", [i % 3 for i in range(60)], list(range(60)))
    arrays = dict(np.load(source.path, allow_pickle=False))
    arrays["images"][7] = arrays["images"][8]
    np.savez(source.path, **arrays)
    assert (
        "1 films stand under more than one patient; check the patient ids" in load(source).warnings
    )


def test_a_class_that_nobody_has_is_reported(tmp_path):
    source = npz(tmp_path / "a.npz", [i % 2 for i in range(60)], list(range(60)))
    assert "no training film of class viral" in load(source).warnings


def test_a_truncated_film_does_not_end_the_study(tmp_path):
    path = write_csv(tmp_path / "f.csv", ("file", "label", "patient"), listed_films(tmp_path, 60))
    damaged = tmp_path / "films" / "010.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    cohort = load(DataSource(kind="csv", path=path))
    assert cohort.quarantined == 1
    assert len(cohort.train) + len(cohort.validation) == 59
    assert not any("010" in w or "films/" in w for w in cohort.warnings)


def test_reading_films_does_not_load_torch():
    code = "import primia.imaging, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.data
def test_the_csv_and_the_folder_of_kermany_give_the_same_films():
    root = real("kermany_cxr")
    listed = DataSource(
        kind="csv", path=root / "metadata.csv", sites_column="as_file", sites_value="1"
    )
    binary = ("normal", "pneumonia")
    folder = load_cohort(
        DataSource(kind="folder", path=root), classes=binary, input_size=SIZE, min_patients=20
    )
    cohort = load(listed, 20)
    assert cohort.train.patient_count == folder.train.patient_count
    assert sorted(p.tobytes() for p in cohort.train.pixels) == sorted(
        p.tobytes() for p in folder.train.pixels
    )
