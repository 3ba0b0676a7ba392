"""`primia report`: the page, its data and the model card of an export, with what was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from primia.cli.console import note, out

if TYPE_CHECKING:
    from primia.findings import Finding

T = TypeVar("T")
_MOST_PICTURES = 12  # beside one finding


def report(
    folder: Annotated[
        Path, typer.Argument(help="An export: result.json, and report.json if there is one.")
    ],
    finding: Annotated[
        list[Path] | None,
        typer.Option(help="What an attack or audit wrote with --out; may be given again."),
    ] = None,
    site_quality: Annotated[
        list[Path] | None,
        typer.Option(help="A hospital's quality.json; may be given again."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Write here; left out: into the export itself.")
    ] = None,
    local: Annotated[
        bool,
        typer.Option(
            "--local", help="For one hospital's eyes: exact counts, pictures of its own films."
        ),
    ] = False,
) -> None:
    """Write report.html, report.json and model-card.md of a study, with its attacks and audits.

    What an earlier report in the folder showed stays in it: remove report.json to begin anew.
    """
    from primia import findings, outcome
    from primia.config.plan import StudyPlan
    from primia.config.strict import validate
    from primia.errors import ConfigError, StateError
    from primia.report import quality, record

    path = folder / "result.json"
    if folder.is_dir() and not path.exists():
        raise ConfigError(
            f"{folder} has no result.json; name the folder of an export, as `primia-coordinator "
            "export` writes it, or `result` in that of a kept demonstration"
        )
    found = _read(path, record.MAX_BYTES, record.from_json)
    plan = validate(StudyPlan, found.plan, where=f"the plan in {path}")
    to = to or folder
    there = outcome.earlier_report(to)
    if there is not None and there.record.plan_digest != found.plan_digest:
        raise ConfigError(f"{to} holds the report of another study; name another folder")
    given = [_read(_inside(f), findings.MAX_BYTES, findings.from_json) for f in finding or ()]
    if local:
        given = [_with_pictures(f, _inside(p)) for f, p in zip(given, finding or (), strict=True)]
    earlier = None if to == folder else outcome.earlier_report(folder)
    try:
        to.mkdir(parents=True, exist_ok=True)
        written = outcome.write_report(
            found,
            plan,
            to,
            findings=[
                *(earlier.findings if earlier else ()),
                *given,
            ],
            quality=[
                *(earlier.quality if earlier else ()),
                *(_read(q, quality.MAX_BYTES, quality.from_json) for q in site_quality or ()),
            ],
            local=local,
        )
    except OSError as err:
        raise StateError(f"cannot write to {to}: {err.strerror}; choose another folder") from err
    stands = outcome.earlier_report(to)
    for one in given:
        if stands and not any(_same(one, f) and f.made_at <= one.made_at for f in stands.findings):
            note(f"{one.title}: the report has a newer one, which stands; remove report.json")
    for written_path in written:
        out.print(f"[green]wrote[/] {written_path}", soft_wrap=True)


def _same(one: Finding, other: Finding) -> bool:
    return (one.command, one.title) == (other.command, other.title)


def _inside(path: Path) -> Path:
    return path / "finding.json" if path.is_dir() else path


def _with_pictures(one: Finding, path: Path) -> Finding:
    """A finding on a hospital's own films has its pictures beside it, not in it: put them in."""
    from primia.errors import ConfigError
    from primia.findings import MAX_BYTES, Picture

    pictures = []
    for number in range(1, _MOST_PICTURES + 1):
        beside = path.with_name(f"picture-{number}.png")
        if one.pictures or path.name != "finding.json" or not beside.is_file():
            break
        try:
            png = beside.read_bytes() if beside.stat().st_size <= MAX_BYTES else b""
        except OSError as err:
            raise ConfigError(f"{beside}: {err.strerror}; write the finding again") from err
        if not png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ConfigError(f"{beside}: not a picture of a finding; write the finding again")
        pictures.append(Picture(one.title, "From the hospital's own films.", png))
    return replace(one, pictures=tuple(pictures), local=True) if pictures else one


def _read(path: Path, most: int, parse: Callable[[str], T]) -> T:
    """What `parse` makes of a file that somebody else wrote. Raises ConfigError, DataError."""
    from primia.errors import ConfigError, DataError

    try:
        if path.stat().st_size > most:
            raise DataError(f"larger than {most} bytes; it is not what was asked for")
        return parse(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise ConfigError(f"{path}: {err.strerror}; name the file that was written") from err
    except UnicodeDecodeError as err:
        raise DataError(f"{path}: not text; name the JSON file that was written") from err
    except DataError as err:
        raise DataError(f"{path}: {err}") from err
