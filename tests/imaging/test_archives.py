import numpy as np
import pytest
from film_files import CLASSES, film, real, write_csv

from primia.config.site import DataSource
from primia.errors import DataError
from primia.imaging.archives import read_npz

SIZE = 28


def read(path, classes=CLASSES, size=SIZE, **more):
    return read_npz(DataSource(kind="npz", path=path, **more), classes, size)


def pictures(n, first=0):
    return np.stack([film(first + i, height=SIZE, width=SIZE) for i in range(n)])


@pytest.fixture
def medmnist(tmp_path):
    """Nine training, three validation and two test films; four patients, one in both parts."""
    np.savez(
        tmp_path / "some.npz",
        train_images=pictures(9),
        train_labels=(np.arange(9) % 2).astype(np.uint8)[:, None],
        val_images=pictures(3, 9),
        val_labels=np.array([[1], [0], [1]], np.uint8),
        test_images=np.full((2, SIZE, SIZE), 111, np.uint8),
        test_labels=np.array([[0], [1]], np.uint8),
    )
    rows = [
        ["train", i, i % 2, f"P{i // 3}", "normal" if i % 2 == 0 else "viral"] for i in range(9)
    ]
    rows += [
        ["val", 0, 1, "P9", "bacterial"],
        ["val", 1, 0, "P0", "normal"],
        ["val", 2, 1, "P9", ""],
    ]
    rows += [["test", 0, 0, "P7", "normal"]]

    def table(rows=rows, name="patients.csv"):
        return write_csv(
            tmp_path / name, ("split", "index", "label", "patient_id", "subtype"), rows
        )

    table.path, table.rows = tmp_path / "some.npz", rows
    return table


def test_medmnist_train_and_val_are_pooled_and_test_is_not_touched(medmnist):
    medmnist()
    pool = read(medmnist.path, ("normal", "pneumonia"))
    assert np.array_equal(pool.pixels, pictures(12))
    assert pool.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert pool.patient_ids.tolist() == [*["P0"] * 3, *["P1"] * 3, *["P2"] * 3, "P9", "P0", "P9"]
    assert any("1 patients have films in both train and val" in w for w in pool.warnings)


def test_medmnist_without_patients_warns_aloud(medmnist):
    pool = read(medmnist.path, ("normal", "pneumonia"))
    assert len(set(pool.patient_ids)) == 12
    assert pool.warnings[0].startswith("NO PATIENT IDS: each of the 12 films")


def test_subtypes_give_the_label_when_the_plan_asks_for_them(medmnist):
    medmnist()
    pool = read(medmnist.path, ("viral", "normal", "bacterial"))
    assert pool.labels.tolist() == [1, 0, 1, 0, 1, 0, 1, 0, 1, 2, 1]
    assert any("1 films have no subtype" in w for w in pool.warnings)


def test_a_table_in_another_order_than_the_films_is_refused(medmnist):
    rows = [list(row) for row in medmnist.rows]
    rows[2][1], rows[3][1] = 3, 2
    medmnist(rows)
    with pytest.raises(DataError, match="the label is not that of the film"):
        read(medmnist.path)


@pytest.mark.parametrize(
    ("index", "row", "message"),
    [
        (4, None, "1 films of the NPZ have no line"),
        (4, ["train", 3, 0, "P1", ""], "line 6: a film named before"),
        (4, ["train", 99, 0, "P1", ""], "line 6: index is no whole number from 0 to 8"),
        (4, ["train", "1.5", 0, "P1", ""], "line 6: index is no whole number"),
        (4, ["train", 4, 0, "", ""], "line 6: empty patient_id"),
    ],
)
def test_every_film_needs_exactly_one_line(medmnist, index, row, message):
    rows = [list(r) for r in medmnist.rows]
    rows[index : index + 1] = [] if row is None else [row]
    medmnist(rows)
    with pytest.raises(DataError, match=message):
        read(medmnist.path)


def test_two_fitting_tables_must_be_told_apart(medmnist):
    medmnist()
    other = medmnist(name="other.csv")
    with pytest.raises(DataError, match="2 tables beside it fit; set patients:"):
        read(medmnist.path)
    assert len(read(medmnist.path, patients=other).labels) > 0


@pytest.fixture
def plain(tmp_path):
    def write(**change):
        arrays = {
            "images": pictures(6),
            "labels": np.array([0, 1, 2, 0, 1, 2]),
            "patient_ids": np.array([f"P{i // 2}" for i in range(6)]),
        }
        arrays |= change
        path = tmp_path / "films.npz"
        np.savez(path, **{name: a for name, a in arrays.items() if a is not None})
        return path

    return write


def test_the_plain_form_is_read_as_it_is(plain):
    pool = read(plain())
    assert np.array_equal(pool.pixels, pictures(6))
    assert pool.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert pool.patient_ids.tolist() == ["P0", "P0", "P1", "P1", "P2", "P2"]


def test_class_names_in_the_file_outrank_their_order(plain):
    path = plain(classes=np.array(["Viral", "normal", "bacterial"]))
    assert read(path).labels.tolist() == [2, 0, 1, 2, 0, 1]
    with pytest.raises(DataError, match="its classes are not the plan's"):
        read(path, ("normal", "bacterial"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 1, 2, 3, 0, 1])}, "labels run from 0 to 3"),
        ({"labels": np.array([0, 1, 2, -1, 0, 1])}, "labels run from -1"),
        ({"labels": np.array([0, 1, 2.0, 0, 0, 1])}, "array labels is float64"),
        ({"labels": np.zeros((6, 14), int)}, "one class index"),
        ({"labels": np.zeros(5, int)}, "not one label for each film"),
        ({"labels": np.array(0)}, "not one label for each film"),
        ({"patient_ids": np.array(["P1"] * 5)}, "one patient for each film"),
        ({"patient_ids": np.array(["P1", "", "P", "P", "P", "P"])}, "one patient for each film"),
        ({"patient_ids": None}, "no patient_ids in it.*every_film_its_own_patient"),
        ({"images": np.zeros((6, 28, 28), np.uint16)}, "need uint8"),
    ],
)
def test_a_plain_file_that_cannot_be_used_is_refused(plain, change, message):
    with pytest.raises(DataError, match=message):
        read(plain(**change))


def test_films_without_ids_count_one_by_one_when_the_steward_says_so(plain):
    pool = read(plain(patient_ids=None), every_film_its_own_patient=True)
    assert len(set(pool.patient_ids)) == 6


def test_a_site_takes_its_own_rows_by_the_table_beside(plain, tmp_path):
    rows = [[5 - i, "AB"[i % 2]] for i in range(6)]
    write_csv(tmp_path / "metadata.csv", ("index", "site"), rows)
    pool = read(plain(), sites_column="site", sites_value="A")
    assert np.array_equal(pool.pixels, pictures(6)[1::2])
    with pytest.raises(DataError, match="no CSV with the columns index and ward"):
        read(plain(), sites_column="ward", sites_value="A")


@pytest.mark.data
def test_pneumoniamnist_as_published():
    pool = read(real("pneumoniamnist/pneumoniamnist_train_val.npz"), ("normal", "pneumonia"))
    assert np.bincount(pool.labels).tolist() == [1349, 3883]
    assert any("288 patients have films in both" in w for w in pool.warnings)


@pytest.mark.data
@pytest.mark.parametrize(("value", "films"), [("A", 1770), ("B", 1540), ("C", 1082)])
def test_kermany_divided_over_hospitals_by_its_table(value, films):
    path = real("kermany_cxr/kermany_64_dev.npz")
    pool = read(path, sites_column="site_skew", sites_value=value, size=None)
    assert pool.pixels.shape == (films, 64, 64)
