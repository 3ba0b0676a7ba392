"""A few films of a source, spread over all of it: enough to see whether films can be read here."""

from __future__ import annotations

from pathlib import Path

from primia.config.site import DataSource
from primia.imaging.files import files_below, inside, is_film, select_site
from primia.imaging.tables import NoFilms, read_table

Listed = list[tuple[Path, bool]]
"""Films, each with whether it is kept whatever its tags say."""


def sample(source: DataSource, count: int) -> tuple[Listed, int]:
    """Up to `count` films evenly over the source, and how many files it lists in all.

    For kinds folder and csv; no film is opened but to see what it is. Raises DataError.
    """
    listed = _of_table(source) if source.kind == "csv" else _of_folder(source.path)
    if not listed:
        raise NoFilms(f"{source.path}: 0 films; check the path, and whether this account reads it")
    step = max(1.0, len(listed) / count)
    places = {int(i * step) for i in range(min(count, len(listed)))}
    return [film for i, film in enumerate(listed) if i in places], len(listed)


def _of_table(source: DataSource) -> Listed:
    table = read_table(source.path)
    root = table.path.resolve().parent
    file = table.need(("file",), "name the column that holds the films' paths so")
    # A path that leaves the folder is an error of its own when the table is read for training.
    return [
        (inside(root, table.cell(row, file)) or root, table.flag(row, "override"))
        for row in select_site(table, source).rows
    ]


def _of_folder(root: Path) -> Listed:
    if not root.is_dir():
        raise NoFilms(f"{root}: not a folder; check the path, and whether this account reads it")
    return [(path, False) for path in files_below(root) if is_film(path)]
