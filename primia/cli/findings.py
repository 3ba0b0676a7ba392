"""Findings in a terminal and in files: what `primia attack` and `primia audit` end with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from primia.cli.console import note, out

if TYPE_CHECKING:
    from primia.findings import Finding, Table, Verdict

Out = Annotated[
    Path | None,
    typer.Option("--out", help="Write finding.json and its pictures into this folder."),
]
_COLOURS = {
    "not refuted": "green",
    "held": "green",
    "refuted": "red",
    "fell": "red",
    "told": "cyan",
}


def show(finding: Finding, to: Path | None, *, json: bool) -> None:
    """Print a finding, and write it where asked. Raises DataError when a figure is not finite."""
    from primia.findings import to_json

    if to is not None:
        write(finding, to)
    if json:
        typer.echo(to_json(finding.without_pictures()))
        return
    out.print(f"[bold]{finding.title}[/]\n{finding.question}", soft_wrap=True)
    for table in finding.tables:
        out.print(_grid(table))
    out.print(f"{verdict_text(finding.verdict)}: {finding.answer}", soft_wrap=True)
    out.print(f"[dim]{finding.limits}[/]", soft_wrap=True)
    if to is not None:
        out.print(f"written: [bold]{to}[/]", soft_wrap=True)
    if finding.local and finding.pictures and to is not None:
        note(
            f"pictures in {to} show this hospital's patients and stay here; finding.json is without"
        )


def verdict_text(verdict: Verdict) -> str:
    """The verdict in its colour, as rich markup."""
    return f"[bold {_COLOURS[verdict.value]}]{verdict.value}[/]"


def write(finding: Finding, folder: Path) -> None:
    """`finding.json`, and each picture as a PNG beside it.

    The pictures of a local finding are not in the JSON, which may be handed on; they are for the
    owner's eyes alone. Raises StateError for a folder that cannot be written.
    """
    from primia.errors import StateError
    from primia.findings import to_json

    told = finding.without_pictures() if finding.local else finding
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "finding.json").write_text(to_json(told) + "\n", encoding="utf-8")
        for number, picture in enumerate(finding.pictures, start=1):
            path = folder / f"picture-{number}.png"
            path.touch(mode=0o600 if finding.local else 0o666)
            if finding.local:
                path.chmod(0o600)
            path.write_bytes(picture.png)
    except OSError as err:
        raise StateError(
            f"cannot write to {folder}: {err.strerror}; choose another folder"
        ) from err


def _grid(table: Table) -> object:
    from rich.markup import escape
    from rich.table import Table as Grid

    grid = Grid(show_edge=False, pad_edge=False, header_style="dim")
    for column in table.columns:
        grid.add_column(escape(column))
    for row in table.rows:
        grid.add_row(*(escape(cell) for cell in row))
    return grid
