"""CSV tables of a hospital: lenient in form (case, semicolons, byte order mark), strict in meaning.

Messages name line numbers and never the content of a cell: a column taken for another one could
put a patient's name into a log.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from primia.errors import DataError

MAX_TABLE_BYTES = 64 << 20

PATIENT_COLUMNS = ("patient", "patient_id")
LABEL_COLUMNS = ("label_name", "label")  # a name says what it means, a number only perhaps

_FLAGS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False, "": False}


class NoFilms(DataError):
    """There is not one film where the site file points."""


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    line: int  # as an editor counts, the header being line 1
    cells: dict[str, str]  # column in lower case -> text without outer blanks


@dataclass(frozen=True)
class Table:
    """A CSV file in memory."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def find(self, names: Sequence[str]) -> str | None:
        """The first of `names` that is a column."""
        return next((name for name in names if name in self.columns), None)

    def need(self, names: Sequence[str], remedy: str) -> str:
        """The first of `names` that is a column. Raises DataError with `remedy`."""
        found = self.find(names)
        if found is None:
            raise DataError(f"{self.path}: no column {' or '.join(names)!r}; {remedy}")
        return found

    def cell(self, row: Row, column: str) -> str:
        """A cell that must not be empty. Raises DataError with the line."""
        text = row.cells[column]
        if not text:
            raise DataError(f"{self.path}, line {row.line}: empty {column}; fill it in")
        return text

    def label(self, row: Row, column: str, classes: Sequence[str]) -> int:
        """Index of the row's class. Raises DataError with the line."""
        found = class_index(self.cell(row, column), classes)
        if isinstance(found, str):
            raise DataError(f"{self.path}, line {row.line}: {found}")
        return found

    def flag(self, row: Row, column: str) -> bool:
        """A cell that says yes or no; a column that is not there says no. Raises DataError."""
        found = _FLAGS.get(row.cells.get(column, "").casefold())
        if found is None:
            raise DataError(
                f"{self.path}, line {row.line}: {column} is neither yes nor no; write one"
            )
        return found


def class_index(text: str, classes: Sequence[str]) -> int | str:
    """Index of a class given by name (in any case) or by number; else what is wrong with it."""
    names = [name.casefold() for name in classes]
    if text.casefold() in names:
        return names.index(text.casefold())
    if text.isascii() and text.isdigit() and int(text[:9]) < len(classes) and len(text) < 9:
        return int(text)
    allowed = f"write one of {', '.join(classes)}, or 0 to {len(classes) - 1}"
    if re.fullmatch(r"[-+]?\d*\.\d*(?:[eE][-+]?\d+)?", text):
        return f"the label is a decimal number; {allowed}"
    return f"the label is no class of the plan; {allowed}"


def read_columns(path: Path) -> tuple[str, ...]:
    """The header of a table alone. Raises DataError."""
    with _open(path) as file:
        line = file.readline(1 << 16)
    return _header(path, _text(path, line))


def read_table(path: Path) -> Table:
    """A whole table. Raises DataError with path, line and remedy."""
    with _open(path) as file:
        raw = file.read(MAX_TABLE_BYTES + 1)
    if len(raw) > MAX_TABLE_BYTES:
        raise DataError(f"{path}: a table above {MAX_TABLE_BYTES >> 20} MiB; divide it")
    text = _text(path, raw)
    columns = _header(path, text.partition("\n")[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    rows: list[Row] = []
    try:
        next(reader)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells under "
                    f"{len(columns)} columns; correct the line"
                )
            stripped = (cell.strip() for cell in cells)
            rows.append(Row(reader.line_num, dict(zip(columns, stripped, strict=True))))
    except csv.Error as err:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({err})") from err
    return Table(path, columns, tuple(rows))


def _open(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as err:
        raise DataError(f"{path}: cannot be read ({err.strerror}); check the path") from err


def _text(path: Path, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise DataError(f"{path}: not UTF-8 text; save the table as UTF-8 CSV") from err


def _delimiter(text: str) -> str:
    first = text.partition("\n")[0]
    return ";" if ";" in first and "," not in first else ","


def _header(path: Path, first_line: str) -> tuple[str, ...]:
    try:
        cells = next(csv.reader([first_line], delimiter=_delimiter(first_line)), [])
    except csv.Error as err:
        raise DataError(f"{path}, line 1: not CSV ({err})") from err
    columns = tuple(cell.strip().casefold() for cell in cells)
    if not any(columns):
        raise DataError(f"{path}: the table is empty; its first line must name the columns")
    if len(set(columns)) != len(columns):
        raise DataError(f"{path}, line 1: a column name stands twice; keep one")
    return columns
