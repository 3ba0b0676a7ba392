"""`primia data`: draw synthetic films, and look at a site's films as its worker would."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from primia.cli.console import out, print_json

if TYPE_CHECKING:
    from primia.imaging import Cohort, Films
    from primia.imaging.dataset import Reject

app = typer.Typer(no_args_is_help=True, help="Draw synthetic films; check a site's films.")


class Form(StrEnum):
    """How films are written."""

    NPZ = "npz"
    CSV = "csv"
    FOLDER = "folder"


@app.command()
def synth(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the films.")],
    patients: Annotated[int, typer.Option(min=2, max=100_000, help="Of each site.")] = 200,
    sites: Annotated[int, typer.Option(min=1, max=100)] = 3,
    size: Annotated[int, typer.Option(min=28, max=512, help="Edge of a film, pixels.")] = 48,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    form: Annotated[Form, typer.Option(help="How the films are written.")] = Form.NPZ,
) -> None:
    """Write synthetic chest films of normal, bacterial and viral patients, one folder per site."""
    from rich.progress import track

    from primia.errors import DataError
    from primia.imaging.export import WRITERS, contact_sheet
    from primia.imaging.synth import CLASSES, synthesise

    films: dict[str, Films] = {}
    for site in track(range(sites), description="drawing", console=out, transient=True):
        films[f"site-{site + 1}"] = synthesise(patients, size=size, seed=seed, site=site)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise DataError(f"{folder}: not empty; name a new folder")
        WRITERS[form](films, folder, CLASSES)
        contact_sheet(films, CLASSES).save(folder / "contact-sheet.png")
    except OSError as err:
        raise DataError(f"{folder}: cannot be written ({err.strerror}); check the path") from err
    for site_name, drawn in films.items():
        out.print(f"{site_name}: {len(drawn)} films of {drawn.patient_count} patients")
    out.print(f"written to {folder}, see contact-sheet.png", soft_wrap=True, markup=False)


@app.command()
def check(
    site_file: Annotated[Path, typer.Argument(metavar="SITE", help="The site file, YAML.")],
    plan_file: Annotated[Path, typer.Option("--plan", metavar="PLAN", help="The plan, YAML.")],
    key_file: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="The worker's split.key: its split, its names."),
    ] = None,
    rejects: Annotated[
        bool, typer.Option("--rejects", help="List the films left out, with their files.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Load the films of SITE as its worker would for PLAN; the counts stay on this machine."""
    from primia.config import load_plan, load_site
    from primia.identity import keyfile
    from primia.imaging import load_cohort
    from primia.imaging.split import VALIDATION_KEY

    site, plan = load_site(site_file), load_plan(plan_file)
    classes = plan.model.classes
    if rejects:
        # With limits off: the list is wanted most when too many films are bad to train on.
        data = site.data.model_copy(update={"unreadable": "skip", "max_unreadable": 1.0})
        site = site.model_copy(update={"data": data})
    cohort = load_cohort(
        site.data,
        classes=classes,
        input_size=plan.model.input_size,
        min_patients=site.caps.min_patients,
        split_key=VALIDATION_KEY if key_file is None else keyfile.load(key_file),
    )
    if rejects:
        _print_rejects(cohort.rejects, json)
        return
    parts = {"train": cohort.train, "validation": cohort.validation}
    if json:
        counts = {name: _counts(films, classes) for name, films in parts.items()}
        warnings = list(cohort.warnings)
        print_json({**counts, "quarantined": cohort.quarantined, "warnings": warnings})
        return
    _print_cohort(cohort, classes, own_split=key_file is not None)


@app.command()
def sheet(
    site_file: Annotated[Path, typer.Argument(metavar="SITE", help="The site file, YAML.")],
    picture: Annotated[Path, typer.Argument(metavar="OUT.png", help="New picture.")],
    plan_file: Annotated[Path, typer.Option("--plan", metavar="PLAN", help="The plan, YAML.")],
) -> None:
    """Draw the mean film and some films of each class, to see polarity and orientation by eye.

    The picture shows patients: it belongs to this machine.
    """
    from primia.config import load_plan, load_site
    from primia.errors import DataError
    from primia.imaging.export import contact_sheet
    from primia.imaging.readers import read_pool

    site, plan = load_site(site_file), load_plan(plan_file)
    classes = plan.model.classes
    pool = read_pool(site.data, classes=classes, input_size=plan.model.input_size)
    if picture.suffix.lower() != ".png":
        raise DataError(f"{picture}: not a name for a PNG; end it in .png")
    try:
        with picture.open("xb") as file:
            picture.chmod(0o600)
            contact_sheet({"films": pool.films()}, classes, mean=True).save(file, "PNG")
    except FileExistsError as err:
        raise DataError(f"{picture}: is there already; name a new file") from err
    except OSError as err:
        raise DataError(f"{picture}: cannot be written ({err.strerror}); check the path") from err
    out.print(f"written to {picture}; it shows patients, keep it here", soft_wrap=True)


def _print_rejects(rejects: tuple[Reject, ...], json: bool) -> None:
    if json:
        print_json(
            {"rejects": [{"film": r.pseudonym, "where": r.where, "reason": r.code,
                          "file": str(r.path)} for r in rejects]}
        )  # fmt: skip
        return
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in ("film", "where", "reason", "file"):
        table.add_column(column, overflow="fold")
    for r in rejects:
        file = "".join(c if c.isprintable() else "?" for c in str(r.path))
        table.add_row(r.pseudonym, r.where, Text(r.reason), Text(file))
    out.print(table)
    out.print("file names stay on this machine; logs name a film by the first column")


def _counts(films: Films, classes: tuple[str, ...]) -> dict[str, int]:
    by_class = {name: int((films.labels == i).sum()) for i, name in enumerate(classes)}
    return {"films": len(films), "patients": films.patient_count, **by_class}


def _print_cohort(cohort: Cohort, classes: tuple[str, ...], *, own_split: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    train, validation = _counts(cohort.train, classes), _counts(cohort.validation, classes)
    out.print("films of this site; the counts stay on this machine")
    table = Table()
    table.add_column("")
    table.add_column("train", justify="right")
    table.add_column("validation", justify="right")
    for name in train:
        table.add_row(name, str(train[name]), str(validation[name]))
    out.print(table)
    if not own_split:
        out.print("a worker splits the patients by a key of its own (--key): other columns")
    more = ", see --rejects" if cohort.quarantined else ""
    out.print(f"quarantined: {cohort.quarantined}{more}")
    for warning in cohort.warnings:
        out.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    out.print("[green]ok[/]  the films can be trained on")
