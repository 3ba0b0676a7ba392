"""Film files (DICOM, PNG, JPEG): a folder of class folders, or a CSV of (file, label, patient)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from primia.config.site import DataSource
from primia.errors import DataError
from primia.imaging.dataset import Pool
from primia.imaging.quarantine import NO_PATIENTS, Listed, any_dicom, decode, form_of
from primia.imaging.split import VALIDATION_KEY
from primia.imaging.tables import (
    LABEL_COLUMNS,
    PATIENT_COLUMNS,
    NoFilms,
    Row,
    Table,
    read_columns,
    read_table,
)

PATIENT_TABLES = ("patients.csv", "metadata.csv")
SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
PARTS = {"": "", "train": "train", "training": "train", "val": "val", "valid": "val",
         "validation": "val", "test": "test", "testing": "test"}  # fmt: skip


def read_folder(
    source: DataSource, classes: tuple[str, ...], size: int, key: bytes = VALIDATION_KEY
) -> Pool:
    """Films of class folders (`ROOT/normal/*.png`, names in any case; also `ROOT/images/normal`).

    A film is what is called one or begins like one: DICOM files often have no suffix. Patients
    come from `patients:`, or from patients.csv or metadata.csv (columns file, patient) in the
    folder, or from the DICOM files. Raises DataError, also when no patient is known and the site
    file does not say `every_film_its_own_patient: true`.
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
             for film in files_below(folders[name])]  # fmt: skip
    films = [(film, label) for film, label in found if is_film(film)]
    if len(found) > len(films):
        warnings.append(f"{len(found) - len(films)} files are no DICOM, PNG or JPEG: left out")
    if not films:
        raise NoFilms(f"{root}: 0 patients: no film in the class folders; check the path")
    outside = sum(not film.resolve().is_relative_to(root) for film, _ in films)
    if outside:
        raise DataError(f"{root}: {outside} films are links out of the folder; copy them into it")
    patients = _patients_of_folder(source, root, base, [film for film, _ in films])
    listed = [
        Listed(film, label, patient) for (film, label), patient in zip(films, patients, strict=True)
    ]
    return decode(listed, source, size, root=root, key=key, warnings=warnings)


def read_unlabelled(root: Path, classes: tuple[str, ...], size: int, most: int) -> Pool:
    """Films of a folder and those in it, whatever these are called: for use without labels.

    Of more than `most` films an even part is read. Labels are -1 where no folder on the way to a
    film has the name of a class. Raises DataError.
    """
    root = root.resolve()
    films = [path for path in files_below(root) if is_film(path)]
    if not films:
        raise NoFilms(f"{root}: no DICOM, PNG or JPEG file in it or its folders; check the path")
    index = {name.casefold(): label for label, name in enumerate(classes)}

    def label_of(film: Path) -> int:
        on_the_way = (part.casefold() for part in film.relative_to(root).parts[:-1])
        return next((index[part] for part in on_the_way if part in index), -1)

    listed = [Listed(film, label_of(film), None) for film in films[:: -(-len(films) // most)]]
    source = DataSource(
        kind="folder", path=root, every_film_its_own_patient=True, ignore_issuer=True
    )
    return decode(listed, source, size, root=root, key=VALIDATION_KEY)


def read_csv(
    source: DataSource, classes: tuple[str, ...], size: int, key: bytes = VALIDATION_KEY
) -> Pool:
    """Films that a CSV lists, relative to the CSV's folder or to `images` in it.

    Columns file, label (name or index; label_name is preferred) and patient (or patient_id; without
    it DICOM files name their patient). A column split (train, val, test) keeps test films out, and
    a column override (yes, no) keeps films in whose tags say that they are no frontal chest films.
    Raises DataError with the line for everything wrong in the table.
    """
    table = read_table(source.path)
    root = table.path.resolve().parent
    file = table.need(("file",), "name the column that holds the films' paths so")
    label = table.need(LABEL_COLUMNS, "name the column that holds the classes so")
    patient = table.find(PATIENT_COLUMNS)
    listed: list[Listed] = []
    lines: dict[Path, int] = {}
    for row in select_site(table, source).rows:
        path = inside(root, table.cell(row, file))
        if path is None:
            raise DataError(
                f"{table.path}, line {row.line}: the file lies outside the CSV's folder; move it in"
            )
        if path in lines:
            raise DataError(
                f"{table.path}, line {row.line}: the same file as line {lines[path]}; keep one"
            )
        lines[path] = row.line
        who = None if patient is None else table.cell(row, patient)
        listed.append(
            Listed(
                path,
                table.label(row, label, classes),
                who,
                f"line {row.line}",
                any_view=table.flag(row, "override"),
                part=_part(table, row),
            )
        )
    if not listed:
        raise NoFilms(f"{table.path}: 0 patients: the table has no rows; add the films")
    if patient is None and not source.every_film_its_own_patient and not any_dicom(lines):
        table.need(PATIENT_COLUMNS, NO_PATIENTS)
    return decode(listed, source, size, root=root, key=key)


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
    raise NoFilms(
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


def files_below(folder: Path) -> Iterator[Path]:
    """Files in a folder and those in it, in order, without hidden ones. Raises DataError."""

    def refuse(err: OSError) -> None:
        raise _unreadable(folder.parent, err) from err

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def _unreadable(folder: Path, err: OSError) -> DataError:
    return DataError(
        f"{folder}: a folder in it cannot be read ({err.strerror}); allow the worker's account"
    )


def is_film(path: Path) -> bool:
    """Is it called a film, or does it begin like one?"""
    return path.suffix.lower() in SUFFIXES or form_of(path) != ""


def _patients_of_folder(
    source: DataSource, root: Path, base: Path, films: list[Path]
) -> Sequence[str | None]:
    path = source.patients or find_patient_table(root)
    if path is None:
        if source.every_film_its_own_patient or any_dicom(films):
            return [None] * len(films)
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


def _part(table: Table, row: Row) -> str:
    """`train`, `val` or `test`, where a table has a column split; else empty."""
    word = row.cells.get("split", "").casefold()
    if word not in PARTS:
        raise DataError(
            f"{table.path}, line {row.line}: split is none of train, val, test; correct it, or "
            "rename the column if it means something else"
        )
    return PARTS[word]


def _posix(cell: str) -> PurePosixPath:
    return PurePosixPath(cell.replace("\\", "/"))


def inside(root: Path, cell: str) -> Path | None:
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
