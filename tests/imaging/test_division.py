import numpy as np
import pytest
from film_files import CLASSES, class_folders, film, listed_films, real, write_csv

from primia.config.site import DataSource
from primia.errors import DataError
from primia.imaging import load_cohort
from primia.imaging.archives import read_npz
from primia.imaging.division import classes_of, divide_npz, source_of

SITES = ("a", "b", "c")


def films_in(path, classes):
    return read_npz(DataSource(kind="npz", path=path), classes, None)


def test_a_divided_data_set_keeps_every_film_once_and_every_patient_whole(tmp_path):
    pixels = np.stack([film(i, height=28, width=28) for i in range(60)])
    owner = np.array([f"secret-{i // 3}" for i in range(60)])
    path = tmp_path / "all.npz"
    np.savez(path, images=pixels, labels=np.arange(60) % 3, patient_ids=owner)
    divided = divide_npz(path, SITES, tmp_path / "out", classes=CLASSES)
    patient_of = {p.tobytes(): str(name) for p, name in zip(pixels, owner, strict=True)}
    label_of = {p.tobytes(): i % 3 for i, p in enumerate(pixels)}
    seen: list[set[str]] = []
    count = 0
    for written in divided.paths:
        pool = films_in(written, CLASSES)
        count += len(pool.labels)
        assert [label_of[p.tobytes()] for p in pool.pixels] == pool.labels.tolist()
        seen.append({patient_of[p.tobytes()] for p in pool.pixels})
        assert len(seen[-1]) == len(set(pool.patient_ids))
        assert not any("secret" in name for name in pool.patient_ids)
    assert count == 60
    assert [len(s) for s in seen] == [7, 7, 6]
    assert len(set.union(*seen)) == 20


@pytest.mark.parametrize("form", ["folder", "csv"])
def test_picture_files_can_be_divided_too(tmp_path, form):
    root = tmp_path / "films"
    if form == "folder":
        rows = [(name, f"P{i // 2}") for i, name in enumerate(class_folders(root, 30))]
        write_csv(root / "patients.csv", ("file", "patient"), rows)
        source = root
    else:
        rows = listed_films(root, 30)
        source = write_csv(root / "films.csv", ("file", "label", "patient"), rows)
    divided = divide_npz(source, SITES, tmp_path / "out", input_size=32)
    assert divided.classes == ("bacterial", "normal", "viral")
    pools = [films_in(path, divided.classes) for path in divided.paths]
    assert sum(len(p.labels) for p in pools) == 30
    assert all(p.pixels.shape[1:] == (32, 32) for p in pools)


def test_what_is_no_data_set_is_refused(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    for path, message in [(tmp_path / "none", "no such file"), (tmp_path / "x.txt", "neither")]:
        with pytest.raises(DataError, match=message):
            source_of(path)
    with pytest.raises(DataError, match="fewer than 2 classes"):
        classes_of(source_of(tmp_path))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "classes", "size", "films"),
    [
        ("pneumoniamnist/pneumoniamnist_train_val.npz", ("normal", "pneumonia"), 28, 5232),
        ("kermany_cxr/kermany_64_dev.npz", CLASSES, 64, 4392),
        ("kermany_cxr", ("normal", "pneumonia"), 64, 1200),
    ],
)
def test_real_data_sets_divide_by_patient_and_read_back(tmp_path, name, classes, size, films):
    divided = divide_npz(real(name), SITES, tmp_path)
    assert (divided.classes, divided.input_size) == (classes, size)
    total = 0
    for path in divided.paths:
        source = DataSource(kind="npz", path=path)
        cohort = load_cohort(source, classes=classes, input_size=size, min_patients=20)
        total += len(cohort.train) + len(cohort.validation)
    assert total == films
