"""Fault rows D01 (one unreadable film among 1,000) and D05 (a patient in train and test)."""

import os
import sys

import numpy as np
import pytest
from dicom_files import encoded_film, gradient
from film_files import CLASSES, encoded, film, listed_films, write_csv

from primia.config.site import DataSource
from primia.errors import DataError
from primia.imaging import load_cohort, sandbox
from primia.imaging.files import read_csv, read_folder
from primia.imaging.quarantine import pseudonym

SIZE = 32
KEY = b"the site's own key"
COLUMNS = ("file", "label", "patient")


def table(path, key=KEY, **more):
    return read_csv(DataSource(kind="csv", path=path, **more), CLASSES, SIZE, key)


def folder(path, **more):
    return read_folder(DataSource(kind="folder", path=path, **more), CLASSES, SIZE, KEY)


def dicom_folder(root, films, **tags):
    """Class folders of DICOM films without suffix, two of each patient."""
    for i in range(films):
        path = root / CLASSES[i % 3] / f"IM{i:05d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = gradient() + np.uint16(i)
        path.write_bytes(encoded_film(stored, 13, **{"PatientID": f"P{i // 6 * 3 + i % 3}"} | tags))


# --- D01 ------------------------------------------------------------------------------------


def test_one_unreadable_film_among_a_thousand_is_counted_and_reported_by_pseudonym(tmp_path):
    rows = listed_films(tmp_path, 1000)
    damaged = tmp_path / "films" / "700.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    source = DataSource(kind="csv", path=write_csv(tmp_path / "films.csv", COLUMNS, rows))
    cohort = load_cohort(source, classes=CLASSES, input_size=SIZE, min_patients=20, split_key=KEY)
    assert len(cohort.train) + len(cohort.validation) == 999
    (reject,) = cohort.rejects
    assert (cohort.quarantined, reject.path, reject.code) == (1, damaged, "damaged")
    assert reject.pseudonym == pseudonym("films/700.png", KEY)
    (warning,) = cohort.warnings
    assert warning.startswith("1 of 1000 films cannot be read: ")
    assert reject.pseudonym in warning
    assert "700" not in warning.replace("of 1000", "").replace(reject.pseudonym, "").replace(
        "line 702", ""
    )
    assert "P350" not in warning


def test_a_pseudonym_needs_the_key_and_is_the_same_in_every_run():
    assert pseudonym("a.dcm", KEY) == pseudonym("a.dcm", KEY)
    assert len({pseudonym("a.dcm", KEY), pseudonym("a.dcm", b"k"), pseudonym("b.dcm", KEY)}) == 3


@pytest.fixture
def one_bad(tmp_path):
    rows = listed_films(tmp_path, 30)
    (tmp_path / "films" / "004.png").write_bytes(b"no film")
    return write_csv(tmp_path / "films.csv", COLUMNS, rows)


def test_the_site_may_stop_at_the_first_unreadable_film(one_bad):
    with pytest.raises(DataError, match=r"1 of 30 .*set unreadable: skip") as refused:
        table(one_bad, unreadable="stop")
    assert "004" not in str(refused.value)
    assert pseudonym("films/004.png", KEY) in str(refused.value)


def test_the_site_may_set_the_share_that_stops(one_bad):
    assert table(one_bad, max_unreadable=0.04).quarantined == 1
    with pytest.raises(DataError, match=r"above 3% \(max_unreadable\)"):
        table(one_bad, max_unreadable=0.03)


def test_where_a_decoder_is_missing_the_remedy_is_to_install_it(tmp_path, monkeypatch):
    dicom_folder(tmp_path, 3)
    without = sandbox._environment() | {"PYTHONPATH": blocked(tmp_path)}
    monkeypatch.setattr(sandbox, "_environment", lambda: without)
    with pytest.raises(DataError, match=r"pip install 'primia\[dicom\]'.*install what they need"):
        folder(tmp_path)


def blocked(tmp_path):
    """A search path on which pydicom cannot be imported."""
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "pydicom.py").write_text("raise ImportError")
    return os.pathsep.join([str(tmp_path / "blocked"), *filter(None, sys.path)])


def test_films_of_another_kind_are_left_out_and_do_not_stop(tmp_path):
    dicom_folder(tmp_path, 12)
    lateral = encoded_film(gradient(), ViewPosition="LL")
    for i in range(9):
        (tmp_path / "normal" / f"lateral{i}").write_bytes(lateral)
    pool = folder(tmp_path, unreadable="stop")
    assert len(pool.labels) == 12
    assert {reject.code for reject in pool.rejects} == {"view"}
    (warning,) = pool.warnings
    assert warning.startswith("9 of 21 films are no frontal chest films")


def test_a_person_may_override_the_tags_of_a_film_in_the_table(tmp_path):
    rows = [[*row, ""] for row in listed_films(tmp_path, 8)]
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(encoded_film(gradient(), BodyPartExamined="HAND"))
        rows.append([name, "normal", "P", {"a": "yes", "b": "no"}[name]])
    path = write_csv(tmp_path / "films.csv", (*COLUMNS, "override"), rows)
    pool = table(path)
    assert len(pool.labels) == 9
    assert [reject.where for reject in pool.rejects] == ["line 11"]
    rows[3][3] = "perhaps"
    with pytest.raises(DataError, match="line 5: override is neither yes nor no"):
        table(write_csv(path, (*COLUMNS, "override"), rows))


# --- D05 ------------------------------------------------------------------------------------


def test_a_patient_in_train_and_test_is_test_with_all_films_and_reported(tmp_path):
    rows = [[*row, "train"] for row in listed_films(tmp_path, 30)]
    rows[4][3], rows[10][3], rows[11][3], rows[20][3] = "test", "Test", "testing", "val"
    pool = table(write_csv(tmp_path / "films.csv", (*COLUMNS, "split"), rows))
    assert len(pool.labels) == 26
    assert not {"P002", "P005"} & set(pool.patient_ids)
    assert pool.warnings == (
        "2 patients stand in test and were left out",
        "1 patients stand in test and in train or val: all their films are test",
        "1 patients stand in train and val; the films are split by patient",
    )


def test_a_patient_of_a_dicom_film_in_test_is_found_too(tmp_path):
    rows = []
    for i in range(12):
        name = f"{i}.dcm"
        (tmp_path / name).write_bytes(encoded_film(gradient(), PatientID=f"P{i // 2}"))
        rows.append([name, CLASSES[i % 3], "test" if i == 3 else "train"])
    pool = table(write_csv(tmp_path / "films.csv", ("file", "label", "split"), rows))
    assert sorted(set(pool.patient_ids)) == ["P0", "P2", "P3", "P4", "P5"]


def test_a_split_that_says_neither_is_refused_with_its_line(tmp_path):
    rows = [[*row, "train"] for row in listed_films(tmp_path, 6)]
    rows[4][3] = "fold-3"
    with pytest.raises(DataError, match="line 6: split is none of train, val, test"):
        table(write_csv(tmp_path / "films.csv", (*COLUMNS, "split"), rows))


def test_no_patient_is_in_both_parts_of_a_cohort(tmp_path):
    dicom_folder(tmp_path, 60)
    source = DataSource(kind="folder", path=tmp_path)
    cohort = load_cohort(source, classes=CLASSES, input_size=SIZE, min_patients=2)
    assert cohort.train.patient_count + cohort.validation.patient_count == 30


# --- Patients of DICOM films ----------------------------------------------------------------


def test_dicom_films_without_suffix_name_their_patients(tmp_path):
    dicom_folder(tmp_path, 12)
    pool = folder(tmp_path)
    assert len(pool.labels) == 12
    assert sorted(set(pool.patient_ids)) == [f"P{i}" for i in range(6)]
    assert pool.warnings == ()


def test_a_table_outranks_what_dicom_films_say(tmp_path):
    dicom_folder(tmp_path, 6)
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("IM*"))
    write_csv(tmp_path / "patients.csv", ("file", "patient"), [(n, "Q") for n in names])
    assert set(folder(tmp_path).patient_ids) == {"Q"}


def test_a_dicom_film_without_a_patient_is_refused_unless_the_steward_says_so(tmp_path):
    dicom_folder(tmp_path, 6)
    (tmp_path / "normal" / "x").write_bytes(encoded_film(gradient(), PatientID=""))
    with pytest.raises(DataError, match=r"1 of 7 films name no patient.*every_film_its_own"):
        folder(tmp_path)
    pool = folder(tmp_path, every_film_its_own_patient=True)
    assert len(set(pool.patient_ids)) == 4  # the others keep what they say


def test_films_and_dicom_films_may_lie_in_one_folder(tmp_path):
    dicom_folder(tmp_path, 6)
    (tmp_path / "viral" / "a.png").write_bytes(encoded(film(1)))
    pool = folder(tmp_path, every_film_its_own_patient=True)
    assert len(pool.labels) == 7


def test_the_same_id_of_two_issuers_is_two_patients(tmp_path):
    dicom_folder(tmp_path, 6, PatientID="1", IssuerOfPatientID="A")
    (tmp_path / "normal" / "x").write_bytes(
        encoded_film(gradient(), PatientID="1", IssuerOfPatientID="B")
    )
    assert len(set(folder(tmp_path).patient_ids)) == 2
    assert len(set(folder(tmp_path, ignore_issuer=True).patient_ids)) == 1


def test_an_id_with_and_without_issuer_is_refused_until_the_steward_decides(tmp_path):
    dicom_folder(tmp_path, 6)
    (tmp_path / "normal" / "x").write_bytes(
        encoded_film(gradient(), PatientID="P0", IssuerOfPatientID="A")
    )
    with pytest.raises(DataError, match=r"1 PatientIDs .*ignore_issuer: true") as refused:
        folder(tmp_path)
    assert "P0" not in str(refused.value)
    assert len(set(folder(tmp_path, ignore_issuer=True).patient_ids)) == 3


def test_a_film_alone_keeps_its_name_when_others_go(tmp_path):
    for i in range(6):
        (tmp_path / CLASSES[i % 3]).mkdir(exist_ok=True)
        (tmp_path / CLASSES[i % 3] / f"{i}.png").write_bytes(encoded(film(i)))
    before = set(folder(tmp_path, every_film_its_own_patient=True).patient_ids)
    (tmp_path / "normal" / "0.png").unlink()
    assert set(folder(tmp_path, every_film_its_own_patient=True).patient_ids) < before
