"""Sources of film files; fault row D07 (a label outside the schema, empty, a decimal)."""

import numpy as np
import pytest
from film_files import CLASSES, class_folders, encoded, film, listed_films, real, write_csv

from primia.config.site import DataSource
from primia.errors import DataError
from primia.imaging.files import read_csv, read_folder

SIZE = 32


def folder(path, **more):
    return read_folder(DataSource(kind="folder", path=path, **more), CLASSES, SIZE)


def table(path, **more):
    return read_csv(DataSource(kind="csv", path=path, **more), CLASSES, SIZE)


@pytest.fixture
def listed(tmp_path):
    """Thirty films, two of each patient, and the writer of their table."""
    rows = listed_films(tmp_path, 30)

    def write(columns=("file", "label", "patient"), change=None):
        if change is not None:
            rows[7] = change(*rows[7])  # line 9 of the table
        return write_csv(tmp_path / "films.csv", columns, rows)

    return write


def test_a_folder_gives_films_classes_and_patients(tmp_path):
    names = class_folders(tmp_path, 12, ("NORMAL", "Bacterial", "viral"))
    rows = [(name, f"P{i // 3}") for i, name in enumerate(names)]
    write_csv(tmp_path / "patients.csv", ("file", "patient_id"), rows)
    pool = folder(tmp_path)
    assert pool.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert pool.patient_ids.tolist() == ["P0", "P1", "P2", "P3"] * 3
    assert pool.quarantined == 0
    assert pool.warnings == ()


def test_class_folders_may_lie_in_images_with_the_table_above(tmp_path):
    names = class_folders(tmp_path / "images", 6)
    write_csv(tmp_path / "metadata.csv", ("file", "patient"), [(n, "P1") for n in names])
    assert set(folder(tmp_path).patient_ids) == {"P1"}


def test_a_folder_without_patients_is_refused_unless_the_steward_says_so(tmp_path):
    class_folders(tmp_path, 6)
    # Not every command that reads films has a site file to say so in.
    with pytest.raises(DataError, match=r"site file alone .*every_film_its_own_patient: true"):
        folder(tmp_path)
    assert len(set(folder(tmp_path, every_film_its_own_patient=True).patient_ids)) == 6


def test_a_film_without_a_patient_is_refused_and_counted(tmp_path):
    names = class_folders(tmp_path, 6)
    write_csv(tmp_path / "patients.csv", ("file", "patient"), [(n, "P1") for n in names[2:]])
    with pytest.raises(DataError, match="2 of 6 films have no line"):
        folder(tmp_path)


def test_a_folder_says_what_it_left_out(tmp_path):
    class_folders(tmp_path, 6, ("normal", "bacterial", "tuberculosis"))
    (tmp_path / "normal" / "report.pdf").write_bytes(b"%PDF")
    pool = folder(tmp_path, every_film_its_own_patient=True)
    assert len(pool.labels) == 4
    assert "no folder for class viral" in pool.warnings
    assert any("1 sub-folders are no class" in w for w in pool.warnings)
    assert any("1 files are no DICOM, PNG or JPEG" in w for w in pool.warnings)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    class_folders(tmp_path / "films", 6)
    (tmp_path / "outside.png").write_bytes(encoded(film(99)))
    (tmp_path / "films" / "normal" / "x.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(DataError, match="1 films are links out of the folder"):
        folder(tmp_path / "films", every_film_its_own_patient=True)


def test_a_folder_without_class_folders_is_refused_with_the_names_expected(tmp_path):
    with pytest.raises(DataError, match=r"0 patients.*normal, bacterial, viral"):
        folder(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        folder(tmp_path / "none")


def test_a_csv_gives_films_classes_and_patients(listed):
    pool = table(listed())
    assert pool.labels.tolist() == [0, 1, 2] * 10
    assert pool.patient_ids[:4].tolist() == ["P000", "P000", "P001", "P001"]
    assert np.array_equal(pool.pixels[5], table(listed()).pixels[5])
    assert pool.pixels.shape == (30, SIZE, SIZE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, c, p: [f, "", p], "line 9: empty label"),
        (lambda f, c, p: [f, "1.0", p], "line 9: the label is a decimal number"),
        (lambda f, c, p: [f, "measles", p], "line 9: the label is no class of the plan"),
        (lambda f, c, p: [f, c, " "], "line 9: empty patient"),
        (lambda f, c, p: ["", c, p], "line 9: empty file"),
        (lambda f, c, p: ["films/000.png", c, p], "line 9: the same file as line 2"),
        (lambda f, c, p: ["films/../films/000.png", c, p], "line 9: the same file as line 2"),
        (lambda f, c, p: ["../secret.png", c, p], "line 9: the file lies outside"),
        (lambda f, c, p: ["/etc/hostname", c, p], "line 9: the file lies outside"),
        (lambda f, c, p: ["films\\..\\..\\x.png", c, p], "line 9: the file lies outside"),
    ],
)
def test_a_wrong_line_is_named_and_its_content_is_not(listed, change, message):
    with pytest.raises(DataError, match=message) as refused:
        table(listed(change=change))
    assert "\n" not in str(refused.value)
    assert not any(word in str(refused.value) for word in ("measles", "P003", "secret", "hostname"))


def test_a_link_in_the_csv_folder_may_not_lead_out(tmp_path):
    root = tmp_path / "site"
    rows = listed_films(root, 30)
    (tmp_path / "outside.png").write_bytes(encoded(film(99)))
    (root / "films" / "link.png").symlink_to(tmp_path / "outside.png")
    path = write_csv(
        root / "films.csv", ("file", "label", "patient"), [*rows, ["films/link.png", "normal", "P"]]
    )
    with pytest.raises(DataError, match="line 32: the file lies outside"):
        table(path)


def test_a_csv_without_a_patient_column_is_refused_unless_the_steward_says_so(listed):
    path = listed(("file", "label", "age"))
    with pytest.raises(DataError, match=r"no column 'patient or patient_id'.*every_film"):
        table(path)
    assert len(set(table(path, every_film_its_own_patient=True).patient_ids)) == 30


@pytest.mark.parametrize("missing", ["file", "label"])
def test_a_csv_without_another_needed_column_is_refused(listed, missing):
    columns = [name if name != missing else "other" for name in ("file", "label", "patient")]
    with pytest.raises(DataError, match="no column"):
        table(listed(columns))


def test_one_truncated_film_is_counted_named_by_line_and_left_out(listed, tmp_path):
    path = listed()
    damaged = tmp_path / "films" / "004.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    pool = table(path)
    assert pool.quarantined == 1
    assert len(pool.labels) == len(pool.pixels) == 29
    (reject,) = pool.rejects
    assert (reject.path, reject.where, reject.code) == (damaged, "line 6", "damaged")
    assert pool.warnings == (
        f"1 of 30 films cannot be read: film {reject.pseudonym}, line 6 (truncated or damaged); "
        "they were left out",
    )
    assert np.array_equal(pool.pixels[4], table(listed()).pixels[4])  # the next film moved up
    assert pool.labels[4] == 2
    assert pool.patient_ids[4] == "P002"


def test_many_unreadable_films_are_an_error_of_the_export(listed, tmp_path):
    path = listed()
    for i in range(8):
        (tmp_path / "films" / f"{i:03d}.png").unlink()
    with pytest.raises(
        DataError, match=r"8 of 30 films cannot be read.*\(missing\).*3 more"
    ) as bad:
        table(path)
    assert "000.png" not in str(bad.value)


def test_a_site_takes_its_own_rows_of_a_shared_csv(tmp_path):
    rows = [[*row, "AB"[i % 2]] for i, row in enumerate(listed_films(tmp_path, 30))]
    path = write_csv(tmp_path / "films.csv", ("file", "label", "patient", "Site"), rows)
    assert len(table(path, sites_column="site", sites_value="B").labels) == 15
    with pytest.raises(DataError, match="no row has site = C"):
        table(path, sites_column="site", sites_value="C")


@pytest.mark.data
def test_the_kermany_folder_as_published_here():
    pool = read_folder(
        DataSource(kind="folder", path=real("kermany_cxr")), ("normal", "pneumonia"), SIZE
    )
    assert np.bincount(pool.labels).tolist() == [360, 840]
    assert len(set(pool.patient_ids)) == 703
    assert pool.quarantined == 0
