"""One data set to several hospitals: what a demonstration and a rehearsal need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from primia.config.site import DataSource
from primia.errors import DataError
from primia.imaging.archives import read_npz
from primia.imaging.dataset import Films, Pool
from primia.imaging.export import write_site_npz
from primia.imaging.files import find_patient_table, subfolders
from primia.imaging.npz import form_of, load_arrays
from primia.imaging.readers import read_pool
from primia.imaging.split import divide
from primia.imaging.tables import LABEL_COLUMNS, read_columns, read_table

LISTINGS = ("films.csv", "labels.csv")  # tables that make a folder a list of films
FILE_SIZE = 64  # edge for picture files, which have no size of their own in common

# Class names by the names of the files as MedMNIST publishes them (medmnist/info.py).
_MEDMNIST_CLASSES = {"pneumoniamnist": ("normal", "pneumonia")}


@dataclass(frozen=True)
class Divided:
    """A data set dealt out to hospitals by patient."""

    paths: tuple[Path, ...]  # one NPZ for each site, in the order of the sites
    classes: tuple[str, ...]
    input_size: int
    quarantined: int
    warnings: tuple[str, ...]


def divide_npz(
    path: Path,
    sites: Sequence[str],
    folder: Path,
    *,
    classes: tuple[str, ...] | None = None,
    input_size: int | None = None,
) -> Divided:
    """Deal the patients of a data set evenly to `sites`; one NPZ each at FOLDER/SITE/films.npz.

    path: an NPZ in either form, a CSV of films, or a folder of class folders or with such a CSV.
    classes: None takes the names the data set gives. input_size: None keeps the size of an NPZ,
    and is 64 for picture files. Raises DataError.
    """
    source = source_of(path)
    classes = classes or classes_of(source)
    if source.kind == "npz":
        pool = read_npz(source, classes, input_size)
    else:
        pool = read_pool(source, classes=classes, input_size=input_size or FILE_SIZE)
    paths = write_site_npz(_by_site(pool, sites), folder, classes)
    size = int(pool.pixels.shape[1])
    return Divided(tuple(paths), classes, size, pool.quarantined, pool.warnings)


def source_of(path: Path) -> DataSource:
    """What kind of data set lies at `path`. Raises DataError when it is none that can be read."""
    if path.is_dir():
        for name in LISTINGS:
            if (path / name).is_file():
                return DataSource(kind="csv", path=path / name)
        table = find_patient_table(path) or find_patient_table(path.parent)
        return DataSource(kind="folder", path=path, patients=table)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; check the path")
    if path.suffix.lower() == ".csv":
        return DataSource(kind="csv", path=path)
    if path.suffix.lower() == ".npz":
        return DataSource(kind="npz", path=path)
    raise DataError(f"{path}: neither a folder nor .csv nor .npz; give one of these")


def classes_of(source: DataSource) -> tuple[str, ...]:
    """Names of the classes as the data set gives them, else class-0, class-1 and so on.

    Raises DataError.
    """
    find = {"folder": _classes_of_folder, "csv": _classes_of_csv, "npz": _classes_of_npz}
    classes = find[source.kind](source.path)
    if len(classes) < 2:
        raise DataError(f"{source.path}: fewer than 2 classes; add films of another class")
    return classes


def _classes_of_folder(path: Path) -> tuple[str, ...]:
    base = path / "images" if (path / "images").is_dir() else path
    return tuple(sorted(folder.name.casefold() for folder in subfolders(base)))


def _classes_of_csv(path: Path) -> tuple[str, ...]:
    table = read_table(path)
    column = table.need(LABEL_COLUMNS, "name the column that holds the classes so")
    labels = {table.cell(row, column).casefold() for row in table.rows}
    if all(label.isdigit() and len(label) < 3 for label in labels):
        return _numbered(max((int(label) for label in labels), default=-1) + 1)
    return tuple(sorted(labels))


def _classes_of_npz(path: Path) -> tuple[str, ...]:
    for start, classes in _MEDMNIST_CLASSES.items():
        if path.name.startswith(start):
            return classes
    key = "train_labels" if form_of(path) == "medmnist" else "labels"
    arrays = load_arrays(path, (key, "classes"))
    if "classes" in arrays:
        return tuple(str(name) for name in arrays["classes"].ravel())
    labels = arrays[key]
    if labels.dtype.kind not in "ui":
        raise DataError(f"{path}: labels are {labels.dtype}; need one class index for each film")
    count = min(int(labels.max(initial=0)), 99) + 1
    return _names_beside(path, count) or _numbered(count)


def _names_beside(path: Path, count: int) -> tuple[str, ...] | None:
    """Class names from the columns label and label_name of the table beside an NPZ."""
    table_path = path.parent / "metadata.csv"
    if not table_path.is_file() or not {"label", "label_name"} <= set(read_columns(table_path)):
        return None
    rows = read_table(table_path).rows
    names = {row.cells["label"]: row.cells["label_name"] for row in rows}
    found = [names.get(str(label), "") for label in range(count)]
    return tuple(found) if all(found) else None


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"class-{label}" for label in range(count))


def _by_site(pool: Pool, sites: Sequence[str]) -> dict[str, Films]:
    site_of = divide(pool.patient_ids, len(sites))
    films = pool.films()
    return {site: films.select(site_of == i) for i, site in enumerate(sites)}
