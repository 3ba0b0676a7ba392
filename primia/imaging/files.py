"""Picture files: a folder of class folders, or a CSV of (file, label, patient)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from primia.config.site import DataSource
from primia.errors import DataError
from primia.imaging.dataset import Pool
from primia.imaging.pictures import Defect, read_picture
from primia.imaging.tables import (
    LABEL_COLUMNS,
    PATIENT_COLUMNS,
    Table,
    read_columns,
    read_table,
)

QUARANTINE_CEILING = 0.10
"""Above this share of unreadable films something is wrong with the export, not with a film."""

PATIENT_TABLES = ("patients.csv", "metadata.csv")
SUFFIXES = (".png", ".jpg", ".jpeg")
NAMED = 5  # so many quarantined films are named in a warning


@dataclass(frozen=True)
class _Listed:
    """A film that a source promises."""

    path: Path
    label: int
    patient: str
    where: str  # "line 7" of the table, or "film 12" of the folder: never a file name


def read_folder(source: DataSource, classes: tuple[str, ...], size: int) -> Pool:
    """Films of class folders (`ROOT/normal/*.png`, names in any case; also `ROOT/images/normal`).

    Patients come from `patients:`, or from patients.csv or metadata.csv (columns file, patient) in
    the folder. Raises DataError, also when no patient is known and the site file does not say
    `every_film_its_own_patient: true`.
    """
    if source.sites_column is not None:
        raise DataError(
            f"{source.path}: sites_column is for kind csv and npz; list the films in a CSV"
        )
    root = source.path.resolve()
    base, folders, others = class_folders(root, classes)
    warnings = [f"no folder for class {name}" for name in classes if name not in folders]
    if others:
        warnings.append(f"{others} sub-folders are no class of the plan and were left out")
    found = [(film, label) for label, name in enumerate(classes) if name in folders
             for film in _files_below(folders[name])]  # fmt: skip
    films = [(film, label) for film, label in found if film.suffix.lower() in SUFFIXES]
    if len(found) > len(films):
        warnings.append(f"{len(found) - len(films)} files are neither PNG nor JPEG: left out")
    if not films:
        raise DataError(f"{root}: 0 patients: no PNG or JPEG in the class folders; check the path")
    outside = sum(not film.resolve().is_relative_to(root) for film, _ in films)
    if outside:
        raise DataError(f"{root}: {outside} films are links out of the folder; copy them into it")
    patients = _patients_of_folder(source, root, base, [film for film, _ in films])
    listed = [
        _Listed(film, label, patient, f"film {number}")
        for number, ((film, label), patient) in enumerate(zip(films, patients, strict=True), 1)
    ]
    return _decode(listed, size, root, warnings)


def read_csv(source: DataSource, classes: tuple[str, ...], size: int) -> Pool:
    """Films that a CSV lists, relative to the CSV's folder or to `images` in it.

    Columns file, label (name or index; label_name is preferred) and patient (or patient_id).
    Raises DataError with the line for everything wrong in the table.
    """
    table = read_table(source.path)
    root = table.path.resolve().parent
    file = table.need(("file",), "name the column that holds the films' paths so")
    label = table.need(LABEL_COLUMNS, "name the column that holds the classes so")
    patient = table.find(PATIENT_COLUMNS)
    if patient is None and not source.every_film_its_own_patient:
        table.need(PATIENT_COLUMNS, NO_PATIENTS)
    listed: list[_Listed] = []
    lines: dict[Path, int] = {}
    for row in select_site(table, source).rows:
        path = _inside(root, table.cell(row, file))
        if path is None:
            raise DataError(
                f"{table.path}, line {row.line}: the file lies outside the CSV's folder; move it in"
            )
        if path in lines:
            raise DataError(
                f"{table.path}, line {row.line}: the same file as line {lines[path]}; keep one"
            )
        lines[path] = row.line
        who = f"line {row.line}" if patient is None else table.cell(row, patient)
        listed.append(_Listed(path, table.label(row, label, classes), who, f"line {row.line}"))
    if not listed:
        raise DataError(f"{table.path}: 0 patients: the table has no rows; add the films")
    return _decode(listed, size, table.path, [])


NO_PATIENTS = (
    "privacy and the split need to know which films belong to one patient: add them, or set "
    "every_film_its_own_patient: true if every film is of another patient"
)


def select_site(table: Table, source: DataSource) -> Table:
    """The rows of this site, if the source divides its table by `sites_column`."""
    if source.sites_column is None:
        return table
    column = table.need((source.sites_column.casefold(),), "correct sites_column")
    rows = tuple(row for row in table.rows if row.cells[column] == source.sites_value)
    if not rows:
        raise DataError(
            f"{table.path}: no row has {source.sites_column} = {source.sites_value}; "
            "correct sites_value"
        )
    return Table(table.path, table.columns, rows)


def class_folders(root: Path, classes: tuple[str, ...]) -> tuple[Path, Mapping[str, Path], int]:
    """Where the class folders lie, the folder of each class, and how many folders are no class."""
    if not root.is_dir():
        raise DataError(f"{root}: not a folder; check the path")
    wanted = {name.casefold(): name for name in classes}
    for base in (root, root / "images"):
        below = subfolders(base)
        folders = {wanted[p.name.casefold()]: p for p in below if p.name.casefold() in wanted}
        if folders:
            return base, folders, len(below) - len(folders)
    raise DataError(
        f"{root}: 0 patients: no folder is named after a class; expected {', '.join(classes)}"
    )


def subfolders(base: Path) -> list[Path]:
    """Folders right below `base`, sorted, without hidden ones; none when it is no folder."""
    if not base.is_dir():
        return []
    try:
        return sorted(p for p in base.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as err:
        raise _unreadable(base, err) from err


def _files_below(folder: Path) -> Iterator[Path]:
    def refuse(err: OSError) -> None:
        raise _unreadable(folder.parent, err) from err

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def _unreadable(folder: Path, err: OSError) -> DataError:
    return DataError(
        f"{folder}: a folder in it cannot be read ({err.strerror}); allow the worker's account"
    )


def _patients_of_folder(source: DataSource, root: Path, base: Path, films: list[Path]) -> list[str]:
    path = source.patients or find_patient_table(root)
    if path is None:
        if source.every_film_its_own_patient:
            return [f"film {number}" for number in range(len(films))]
        raise DataError(f"{root}: no patients.csv (columns file, patient); {NO_PATIENTS}")
    table = read_table(path)
    file = table.need(("file",), "name the column that holds the films' paths so")
    patient = table.need(PATIENT_COLUMNS, NO_PATIENTS)
    patients: dict[PurePosixPath, str] = {}
    for row in table.rows:
        name = _posix(table.cell(row, file))
        if name in patients:
            raise DataError(f"{path}, line {row.line}: a file named before; keep one line of it")
        patients[name] = table.cell(row, patient)
    names = [
        (PurePosixPath(film.relative_to(base).as_posix()),
         PurePosixPath(film.relative_to(root).as_posix())) for film in films
    ]  # fmt: skip
    missing = sum(short not in patients and long not in patients for short, long in names)
    if missing:
        raise DataError(f"{path}: {missing} of {len(films)} films have no line; add them")
    return [patients.get(short) or patients[long] for short, long in names]


def find_patient_table(folder: Path) -> Path | None:
    """patients.csv or metadata.csv of a folder, if it has the columns file and patient."""
    for name in PATIENT_TABLES:
        path = folder / name
        if path.is_file():
            columns = read_columns(path)
            if "file" in columns and any(c in columns for c in PATIENT_COLUMNS):
                return path
    return None


def _posix(cell: str) -> PurePosixPath:
    return PurePosixPath(cell.replace("\\", "/"))


def _inside(root: Path, cell: str) -> Path | None:
    """The film's real path, or None when it leaves `root` by .., a link or an absolute path."""
    if "\0" in cell:
        return None
    name = _posix(cell)
    path = root / name
    if not path.exists() and (root / "images").is_dir():
        path = root / "images" / name
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return None
    return resolved if resolved.is_relative_to(root) else None


def _decode(listed: list[_Listed], size: int, where: Path, warnings: list[str]) -> Pool:
    pixels = np.empty((len(listed), size, size), np.uint8)
    kept: list[_Listed] = []
    bad: list[tuple[_Listed, Defect]] = []
    for film in listed:
        picture = read_picture(film.path, size)
        if isinstance(picture, Defect):
            bad.append((film, picture))
        else:
            pixels[len(kept)] = picture
            kept.append(film)
    if bad:
        named = ", ".join(f"{film.where} ({defect})" for film, defect in bad[:NAMED])
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        summary = f"{len(bad)} of {len(listed)} films cannot be read: {named}{more}"
        if len(bad) > QUARANTINE_CEILING * len(listed):
            raise DataError(
                f"{where}: {summary}; above {QUARANTINE_CEILING:.0%} the export is at fault: "
                "export the films again"
            )
        warnings.append(f"{summary}; they were left out")
    return Pool(
        pixels[: len(kept)],
        np.array([film.label for film in kept], np.int64),
        np.array([film.patient for film in kept], np.str_),
        quarantined=len(bad),
        warnings=tuple(warnings),
    )
