"""Films in one NPZ: as MedMNIST publishes them, or as images/labels/patient_ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from primia.config.site import DataSource
from primia.errors import DataError
from primia.imaging.dataset import Indices, Pixels, Pool
from primia.imaging.files import select_site
from primia.imaging.npz import form_of, load_arrays, squares
from primia.imaging.quarantine import NO_PATIENTS
from primia.imaging.tables import PATIENT_COLUMNS, Row, Table, read_columns, read_table

TRAINED_ON = ("train", "val")  # the parts of a MedMNIST archive that are pooled; never test
UNNAMED = -1  # no subtype, so no class of this plan


def read_npz(source: DataSource, classes: tuple[str, ...], size: int | None) -> Pool:
    """Films of an NPZ in either form; size None keeps their own. Raises DataError."""
    if form_of(source.path) == "medmnist":
        return _read_medmnist(source, classes, size)
    return _read_plain(source, classes, size)


def _read_medmnist(source: DataSource, classes: tuple[str, ...], size: int | None) -> Pool:
    """train_* and val_* pooled, for the split by patient that follows; test_* is not opened."""
    path = source.path
    names = [f"{part}_{what}" for part in TRAINED_ON for what in ("images", "labels")]
    arrays = load_arrays(path, names)
    parts = [part for part in TRAINED_ON if f"{part}_images" in arrays]
    labels = np.concatenate(
        [_one_label_each(arrays.get(f"{p}_labels"), arrays[f"{p}_images"], path) for p in parts]
    )
    first = squares(arrays["train_images"], size, path)
    rest = [squares(arrays[f"{p}_images"], first.shape[1], path) for p in parts[1:]]
    pixels = np.concatenate([first, *rest])
    part_of = np.repeat(np.array(parts), [len(arrays[f"{part}_images"]) for part in parts])
    table = _table_beside(source, [("split",), ("index",), PATIENT_COLUMNS])
    if table is None:
        return _every_film_alone(source, pixels, _in_range(labels, classes, path))
    starts = {part: int(np.argmax(part_of == part)) for part in parts}
    lengths = {part: int((part_of == part).sum()) for part in parts}
    rows = _rows_by_film(table, starts, lengths)
    patients = _patients(table, rows)
    warnings = []
    both = set(patients[part_of == "train"]) & set(patients[part_of == "val"])
    if both:
        warnings.append(
            f"{len(both)} patients have films in both train and val of the NPZ; "
            "the films were pooled and are split by patient"
        )
    _same_order(table, rows, labels)
    subtypes = _subtypes(table, rows, classes)
    labels = _in_range(labels, classes, path) if subtypes is None else subtypes
    pool = Pool(pixels, labels, patients).select(_of_site(table, rows, source))
    unnamed = pool.labels == UNNAMED
    if unnamed.any():
        warnings.append(f"{int(unnamed.sum())} films have no subtype and were left out")
    return replace(pool.select(~unnamed), warnings=tuple(warnings))


def _every_film_alone(source: DataSource, pixels: Pixels, labels: Indices) -> Pool:
    if source.sites_column is not None:
        raise DataError(
            f"{source.path}: sites_column needs a table of the films; set patients: to it"
        )
    warning = (
        f"NO PATIENT IDS: each of the {len(labels)} films counts as its own patient, so a patient "
        "with several films is protected less than stated and may stand in both training and "
        "validation; put a CSV (split, index, patient_id) beside the NPZ"
    )
    alone = np.array([f"film {number}" for number in range(len(labels))], np.str_)
    return Pool(pixels, labels, alone, warnings=(warning,), unnamed=np.ones(len(labels), bool))


def _read_plain(source: DataSource, classes: tuple[str, ...], size: int | None) -> Pool:
    """images (n, h, w), labels (n,), patient_ids (n,) and, if there, classes (their names)."""
    path = source.path
    arrays = load_arrays(path, ("images", "labels", "patient_ids", "classes"))
    labels = _one_label_each(arrays["labels"], arrays["images"], path)
    if "classes" in arrays:
        labels = _by_name(labels, arrays["classes"], classes, path)
    pixels = squares(arrays["images"], size, path)
    table = _table_of_plain(source, named="patient_ids" in arrays)
    rows = [] if table is None else _rows_by_film(table, {"": 0}, {"": len(labels)})
    patients = _patients_of_plain(source, arrays.get("patient_ids"), table, rows, len(labels))
    named = "patient_ids" in arrays or (table is not None and table.find(PATIENT_COLUMNS))
    unnamed = np.full(len(labels), not named)
    pool = Pool(pixels, _in_range(labels, classes, path), patients, unnamed=unnamed)
    if source.sites_column is None:
        return pool
    if table is None:
        raise DataError(
            f"{path}: no CSV with the columns index and {source.sites_column} beside it; "
            "set patients: to it"
        )
    return pool.select(_of_site(table, rows, source))


def _table_of_plain(source: DataSource, *, named: bool) -> Table | None:
    """The table beside, where one is needed: for the patients, for the sites, or by request."""
    columns: list[Sequence[str]] = [("index",)]
    columns += [(source.sites_column.casefold(),)] if source.sites_column else []
    columns += [] if named else [PATIENT_COLUMNS]
    if len(columns) == 1 and source.patients is None:
        return None
    return _table_beside(source, columns)


def _patients_of_plain(
    source: DataSource,
    own: npt.NDArray[Any] | None,
    table: Table | None,
    rows: list[Row],
    films: int,
) -> npt.NDArray[np.str_]:
    if table is not None and table.find(PATIENT_COLUMNS):
        return _patients(table, rows)
    if own is None:
        if source.every_film_its_own_patient:
            return np.array([f"film {number}" for number in range(films)], np.str_)
        raise DataError(f"{source.path}: no patient_ids in it; {NO_PATIENTS}")
    try:
        patients = own.astype(np.str_)
        "".join(patients.ravel().tolist()).encode()
    except ValueError as err:  # half a character, or none at all
        raise DataError(
            f"{source.path}: patient_ids hold what is no text; write them anew"
        ) from err
    if patients.shape != (films,) or (patients == "").any():
        raise DataError(f"{source.path}: patient_ids must name one patient for each film")
    return patients


def _one_label_each(
    labels: npt.NDArray[Any] | None, images: npt.NDArray[Any], path: Path
) -> Indices:
    if labels is None or not (labels.ndim and images.ndim) or len(labels) != len(images):
        raise DataError(f"{path}: not one label for each film; write the file anew")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise DataError(
            f"{path}: labels are {labels.dtype} of shape {labels.shape}; need one class index "
            "for each film"
        )
    return labels.astype(np.int64)


def _in_range(labels: Indices, classes: tuple[str, ...], path: Path) -> Indices:
    if labels.size and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise DataError(
            f"{path}: labels run from {labels.min()} to {labels.max()}, the plan has "
            f"{len(classes)} classes (0 to {len(classes) - 1}); use the plan made for this data"
        )
    return labels


def _by_name(
    labels: Indices, names: npt.NDArray[Any], classes: tuple[str, ...], path: Path
) -> Indices:
    """Labels by the plan's order of classes, where the file says its own."""
    own = [str(name).casefold() for name in names.ravel()]
    wanted = [name.casefold() for name in classes]
    if any(name not in wanted for name in own):
        raise DataError(f"{path}: its classes are not the plan's ({', '.join(classes)})")
    _in_range(labels, tuple(own), path)
    order = np.array([wanted.index(name) for name in own], np.int64)
    return order[labels]


def _table_beside(source: DataSource, columns: Sequence[Sequence[str]]) -> Table | None:
    """The table that `patients:` names, else the only CSV beside the NPZ with these columns."""
    if source.patients is not None:
        table = read_table(source.patients)
        for names in columns:
            table.need(names, "name the column so, or point patients: to another table")
        return table
    found = [
        path
        for path in sorted(source.path.parent.glob("*.csv"))
        if path.is_file() and all(set(names) & set(read_columns(path)) for names in columns)
    ]
    if len(found) > 1:
        raise DataError(f"{source.path}: {len(found)} tables beside it fit; set patients: to one")
    return read_table(found[0]) if found else None


def _rows_by_film(table: Table, starts: dict[str, int], lengths: dict[str, int]) -> list[Row]:
    """The row of each film, in the order of the films. Each film must have exactly one."""
    rows: dict[int, Row] = {}
    for row in table.rows:
        part = "" if "" in starts else row.cells["split"].casefold()
        if part not in starts:
            continue
        text = table.cell(row, "index")
        index = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
        if not 0 <= index < lengths[part]:
            raise DataError(
                f"{table.path}, line {row.line}: index is no whole number from 0 to "
                f"{lengths[part] - 1}; correct it"
            )
        if rows.setdefault(starts[part] + index, row) is not row:
            raise DataError(f"{table.path}, line {row.line}: a film named before; keep one line")
    missing = sum(lengths.values()) - len(rows)
    if missing:
        raise DataError(f"{table.path}: {missing} films of the NPZ have no line; add them")
    return [rows[film] for film in range(len(rows))]


def _patients(table: Table, rows: list[Row]) -> npt.NDArray[np.str_]:
    column = table.need(PATIENT_COLUMNS, NO_PATIENTS)
    return np.array([table.cell(row, column) for row in rows], np.str_)


def _same_order(table: Table, rows: list[Row], labels: Indices) -> None:
    """A table in another order than the films would give every film a wrong patient."""
    if "label" not in table.columns:
        return
    for row, label in zip(rows, labels.tolist(), strict=True):
        if row.cells["label"] != str(label):
            raise DataError(
                f"{table.path}, line {row.line}: the label is not that of the film in the NPZ; "
                "the table belongs to another file"
            )


def _subtypes(table: Table, rows: list[Row], classes: tuple[str, ...]) -> Indices | None:
    """Labels from the column subtype, if the plan's classes are the subtypes; else None."""
    if "subtype" not in table.columns:
        return None
    known = {name.casefold(): i for i, name in enumerate(classes)} | {"": UNNAMED}
    found = [known.get(row.cells["subtype"].casefold()) for row in rows]
    labels = [label for label in found if label is not None]
    return np.array(labels, np.int64) if len(labels) == len(rows) else None


def _of_site(table: Table, rows: list[Row], source: DataSource) -> npt.NDArray[np.bool_]:
    mine = {row.line for row in select_site(table, source).rows}
    return np.array([row.line in mine for row in rows], np.bool_)
